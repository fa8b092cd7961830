"""Operator for a person's approval of a plan. Imported only when needed, as its base class is slow to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from airflow_reverse_etl.compat import AirflowSkipException, Context, airflow_errors
from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.operators.base import SyncOperator

if TYPE_CHECKING:
    from airflow.sdk import XComArg

    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.sync.ports import Destination

_CHOICES = (
    "**Approve** sends these changes. **Reject** discards this plan and sends nothing; the next run makes a new plan."
)


class PlanApprovalOperator(SyncOperator, ApprovalOperator):
    """Show a plan to a person, and wait for the decision. A plan without rows to send skips this task.

    A rejected plan is discarded at once with its rows, and the tasks after this one are skipped. A plan with removed
    rows waits 24 hours, unless ``response_timeout`` is set: it is not sent later.

    :param plan: the XCom ``plan`` of a :class:`ReverseEtlPlanOperator`. Templated.
    """

    template_fields: Sequence[str] = ("sync", "plan")

    def __init__(self, *, plan: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        # response_timeout limits the wait for a person. An execution_timeout in default_args is meant for the loads.
        # A rejection waits on its worker for the run that holds the lease: the plan must not be sent.
        usual = {"execution_timeout": None, **kwargs, "deferrable": False}
        super().__init__(subject="May this plan be sent?", **usual)
        self.plan: Any = plan

    def execute(self, context: Context) -> Any:
        """Ask for the decision."""
        if not self.plan["total"]:
            raise AirflowSkipException("Nothing to send, so nothing to approve.")
        with airflow_errors():
            sync = self._load_sync(context)
        if self.plan["planned"]["removed"] and self.response_timeout is None:
            self.response_timeout = self.timing.removal_age
        where = sync.destination.connection or sync.destination.type
        self.subject = f"Send {self.plan['total']:,} changes of {sync.name} to {where}?"
        self.body = f"{self.plan['text']}\n\n{_CHOICES}"
        return ApprovalOperator.execute(self, context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Continue after the approval, or reject the plan."""
        if self.REJECT in event.get("chosen_options", ()):
            with airflow_errors():
                self._reject(self._load_sync(context), context)
        return super().execute_complete(context, event)

    def _reject(self, sync: Sync, context: Context) -> None:
        try:
            self._await(self._discard(sync, context, self._destination(sync)))
        except RunConflictError as error:  # another run supersedes the plan
            self.log.info("The plan was not discarded, as another run has taken it over: %s", error)

    async def _discard(self, sync: Sync, context: Context, destination: Destination) -> None:
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, self._run_context(sync, context, self.plan["run_id"]))
        async with steps.lease():
            await steps.reject(destination)
