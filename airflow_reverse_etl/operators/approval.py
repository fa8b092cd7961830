"""A person's word between plan and load. Loaded only where it is asked for: its base class is slow to import."""

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

_WHAT_FOLLOWS = "**Approve** sends this. **Reject** discards this plan and sends nothing; the next run plans anew."


class PlanApprovalOperator(SyncOperator, ApprovalOperator):
    """Show a plan to a person, and wait for the answer; without anything to send there is nothing to ask.

    Rejected, the plan is discarded at once, rows and all, and the tasks after this one are skipped.

    :param plan: the XCom ``plan`` of a :class:`ReverseEtlPlanOperator`. Templated.
    """

    template_fields: Sequence[str] = ("sync", "plan")

    def __init__(self, *, plan: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        # How long a person may take is response_timeout; an execution_timeout is one of default_args, for the loads.
        super().__init__(subject="May this plan be sent?", **{"execution_timeout": None, **kwargs})
        self.plan: Any = plan

    def execute(self, context: Context) -> Any:
        """Ask."""
        if not self.plan["total"]:
            raise AirflowSkipException("There is nothing to send, so there is nothing to approve.")
        with airflow_errors():
            sync = self._load_sync()
        where = sync.destination.connection or sync.destination.type
        self.subject = f"Send {self.plan['total']:,} changes of {sync.name} to {where}?"
        self.body = f"{self.plan['text']}\n\n{_WHAT_FOLLOWS}"
        return ApprovalOperator.execute(self, context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Do as the answer says."""
        if self.REJECT in event.get("chosen_options", ()):
            with airflow_errors():
                self._give_up(self._load_sync(), context)
        return super().execute_complete(context, event)

    def _give_up(self, sync: Sync, context: Context) -> None:
        try:
            self._await(self._reject(sync, context, self._destination(sync)))
        except RunConflictError as error:  # it supersedes the plan
            self.log.info("The plan is left to another run: %s", error)

    async def _reject(self, sync: Sync, context: Context, destination: Destination) -> None:
        from airflow_reverse_etl.sync.run import Run

        steps = Run(sync, self._run_context(sync, context, self.plan["run_id"]))
        async with steps.lease():
            await steps.reject(destination)
