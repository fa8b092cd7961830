"""Sensor that waits for a dbt Cloud job with its own schedule, and takes each of its runs once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

import pendulum
from airflow.sdk import PokeReturnValue

from airflow_reverse_etl.compat import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AssetAlias,
    BaseSensorOperator,
    airflow_configuration,
    airflow_errors,
)
from airflow_reverse_etl.dbt_cloud.consumption import Claim, Consume, Cursor, OnFailure, claimed, next_free_run, take
from airflow_reverse_etl.dbt_cloud.models import OVERLAP, RunStatus
from airflow_reverse_etl.errors import DbtRunError, SpecError

if TYPE_CHECKING:
    from airflow_reverse_etl.compat import Context
    from airflow_reverse_etl.dbt_cloud.client import DbtCloudApi
    from airflow_reverse_etl.dbt_cloud.models import CloudRun

#: Where a sensor that has taken nothing yet begins to look.
FIRST_LOOK_BACK = timedelta(days=1)
#: Clocks that differ by less are the same: the server's ``Date`` has whole seconds.
_SKEW = timedelta(seconds=2)
#: Alias of the job's asset, whose name a task knows only when it runs.
_REST = AssetAlias("reverse_etl.dbt_cloud.left")


class DbtCloudJobSensor(BaseSensorOperator):
    """Succeeds when a run of a dbt Cloud job has finished successfully that this task has not consumed before.

    Exactly once per task of a DAG: a retried or cleared task instance gets the run that it had; no other DAG run, in a
    backfill or at the same time, ever gets it. What was consumed is recorded under ``[reverse_etl] state_url``, before
    the task succeeds, so that a crash in between loses nothing. Reads only: a read-only token is enough.

    Returns (XCom): run_id, job_id, status, finished_at, git_sha, git_branch, project_id, environment_id, href,
    ``superseded`` (older runs passed over) and ``artifacts`` (names such as ``manifest.json``).

    The sensor does not start the job: the official ``DbtCloudRunJobOperator`` does. It misses a run that dbt Cloud
    lists more than five minutes after the run finished.

    :param dbt_cloud_conn_id: Airflow connection of type ``dbt_cloud``.
    :param job_id: the job; or give the next three.
    :param project_name: the job's project.
    :param environment_name: the job's environment.
    :param job_name: the job's name there.
    :param after: which runs count: ``last_consumed`` (behind the last one taken; a day back at first),
        ``data_interval_start`` (of the DAG run; its time without one), or a time, as a datetime or ISO 8601 text.
        A time without an offset is in Airflow's default time zone.
    :param consume: of several runs, ``latest`` takes the newest and passes over the rest; ``each`` the oldest.
    :param on_failure: a failed or cancelled run fails this try and the next one waits for another run (``fail``), skips
        the task (``skip``), or is passed over (``wait``).
    :param wait: False looks once, and skips the task if no run is left to take: for DAGs that events start. Airflow
        may start one DAG run for several events: with ``consume="each"`` the task then makes an event of its own for
        what is left, until nothing is. Failed runs have no events, so that needs ``on_failure="wait"``.
    :param deferrable: wait in the triggerer, without a worker slot.
    :param poke_interval: seconds between polls, at most; one poll serves all that wait for the same connection.
    :raises AirflowException: the run failed or was cancelled (``on_failure="fail"``), or dbt Cloud does not answer.
    :raises AirflowFailException: the job does not exist, or dbt Cloud refuses the token.
    """

    template_fields = ("dbt_cloud_conn_id", "job_id", "project_name", "environment_name", "job_name", "after")
    ui_color: str = "#ffd9cc"

    def __init__(
        self,
        *,
        dbt_cloud_conn_id: str = "dbt_cloud_default",
        job_id: int | str | None = None,
        project_name: str | None = None,
        environment_name: str | None = None,
        job_name: str | None = None,
        after: datetime | str = "last_consumed",
        consume: Consume = "latest",
        on_failure: OnFailure = "fail",
        wait: bool = True,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        names = (project_name, environment_name, job_name)
        problems = []
        if (job_id is None) != all(names) or (job_id is not None and any(names)):
            problems.append("job: give job_id, or all of project_name, environment_name and job_name")
        if consume not in get_args(Consume):
            problems.append(f"consume: {consume!r} is not one of {', '.join(get_args(Consume))}")
        if on_failure not in get_args(OnFailure):
            problems.append(f"on_failure: {on_failure!r} is not one of {', '.join(get_args(OnFailure))}")
        self._tells_rest = consume == "each" and not wait
        if self._tells_rest and on_failure != "wait":
            problems.append("on_failure: consume='each' with wait=False needs 'wait': failed runs start no DAG run")
        if problems:
            raise SpecError("the sensor is not valid", problems=tuple(problems), task=self.task_id)
        self.dbt_cloud_conn_id = dbt_cloud_conn_id
        self.job_id = job_id
        self.project_name = project_name
        self.environment_name = environment_name
        self.job_name = job_name
        self.after = after
        self.consume = consume
        self.on_failure = on_failure
        self.wait = wait
        self.deferrable = deferrable
        if self._tells_rest:
            self.outlets = [*self.outlets, _REST]

    def execute(self, context: Context) -> Any:
        if not self.deferrable and self.wait:
            return super().execute(context)
        return self._take_or_defer(context, self._until())

    def _until(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.timeout)

    def poke(self, context: Context) -> PokeReturnValue:
        with airflow_errors():
            result = _Look(self, context).take()
        return PokeReturnValue(is_done=result is not None, xcom_value=result)

    def execute_complete(
        self, context: Context, event: dict[str, Any] | None = None, *, until: str | None = None
    ) -> Any:
        """Look again after the trigger fired. Its event has no more to say, except for an error.

        ``dag.test()`` passes on only the event.
        """
        from airflow_reverse_etl.triggers.dbt_cloud import error_from_json

        if event and "error" in event:
            with airflow_errors():
                raise error_from_json(event["error"])
        return self._take_or_defer(context, datetime.fromisoformat(until) if until else self._until())

    def _take_or_defer(self, context: Context, until: datetime) -> dict[str, Any]:
        with airflow_errors():
            look = _Look(self, context)
            result = look.take()
            if result is not None and self._tells_rest:
                look.tell_rest()
        if result is not None:
            return result
        if not self.wait:
            raise AirflowSkipException("No run of the dbt Cloud job is left to consume")
        left = until - datetime.now(UTC)
        if left <= timedelta(0):
            waited = pendulum.duration(seconds=self.timeout).in_words()
            raise AirflowSensorTimeout(f"No run of the dbt Cloud job could be consumed in {waited}")
        from airflow_reverse_etl.triggers.dbt_cloud import DbtCloudRunFinishedTrigger

        trigger = DbtCloudRunFinishedTrigger(
            self.dbt_cloud_conn_id,
            look.job_id,
            self.poke_interval,
            cursor=look.cursor().to_json(),
            only_success=self.on_failure == "wait",
        )
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"until": until.isoformat()},
            timeout=min(left, self.execution_timeout or left),
        )
        raise AssertionError("defer raises")


class _Look:
    """One look of a sensor at its job: take a run, or remember what was seen."""

    def __init__(self, sensor: DbtCloudJobSensor, context: Context) -> None:
        from airflow_reverse_etl.hooks.dbt_cloud import DbtCloudApiHook
        from airflow_reverse_etl.stores.compare_and_set import VersionedFile
        from airflow_reverse_etl.wiring import state_files

        self.sensor = sensor
        self.context = context
        self.hook = DbtCloudApiHook(sensor.dbt_cloud_conn_id)
        names = (sensor.project_name, sensor.environment_name, sensor.job_name)
        if sensor.job_id is not None:
            self.job_id = int(sensor.job_id)
        else:
            keys = ("project_name", "environment_name", "job_name")
            self.job_id = self.hook.job_id(**dict(zip(keys, map(str, names), strict=True)))
        ti = context["ti"]
        self.claimant = ti.run_id if ti.map_index is None or ti.map_index < 0 else f"{ti.run_id}[{ti.map_index}]"
        place = "/".join(quote(part, safe="") for part in (ti.dag_id, ti.task_id))
        account = self.hook.api().account_id
        self.record = VersionedFile(state_files(), f"dbt_cloud/consumed/{place}/{account}-{self.job_id}")
        self.seen: list[CloudRun] = []
        self.now = datetime.now(UTC)
        self.ahead = timedelta(0)

    def take(self) -> dict[str, Any] | None:
        """Take a run, and return the task's output, or None if it has to wait. ``on_failure`` decides on bad runs."""
        claim = claimed(self.record, self.claimant) or self._take()
        return self._result(claim) if claim else None

    def cursor(self) -> Cursor:
        """Return a cursor for the runs that were seen but not taken."""
        return Cursor(self.now).advance(self.seen)[1]

    def _take(self) -> Claim | None:
        local = datetime.now(UTC)
        self.now = self.hook.call(self._server_time) or local
        ahead = self.now - local
        self.ahead = ahead if abs(ahead) > _SKEW else timedelta(0)
        sensor = self.sensor
        return take(
            self.record,
            self._finished,
            self.claimant,
            after=self._after(),
            first=self.now - FIRST_LOOK_BACK,
            consume=sensor.consume,
            on_failure=sensor.on_failure,
        )

    def tell_rest(self) -> None:
        """Emit an event of the job's asset if a run is left to take: Airflow merges events, and drops some."""
        first = self.now - FIRST_LOOK_BACK
        options: Any = {"after": self._after(), "first": first, "on_failure": self.sensor.on_failure}
        run = next_free_run(self.record, self._finished, **options)
        if run:
            from airflow_reverse_etl.triggers.dbt_cloud import job_asset

            asset = job_asset(self.sensor.dbt_cloud_conn_id, self.job_id)
            self.context["outlet_events"][_REST].add(asset, extra={"payload": run.to_json()})

    async def _server_time(self, api: DbtCloudApi) -> datetime | None:
        await api.job(self.job_id)  # a missing job would never finish
        return api.server_time

    def _finished(self, since: datetime) -> list[CloudRun]:
        start = min(since, self.now - OVERLAP)  # what finished just before it counts must not wake the task again
        self.seen = self.hook.call(lambda api: api.finished_runs(start, job_id=self.job_id))
        return self.seen

    def _after(self) -> datetime | None:
        """Return the time in ``after`` by dbt Cloud's clock: Airflow's times are moved by the clocks' difference."""
        after = self.sensor.after
        if after == "last_consumed":
            return None
        if after == "data_interval_start":
            start = self.context.get("data_interval_start") or self.context["dag_run"].run_after
            return start + self.ahead
        try:
            time = after if isinstance(after, datetime) else datetime.fromisoformat(after)
        except ValueError:
            raise SpecError(
                f"after: {after!r} is not a time", todo="use last_consumed, data_interval_start or an ISO 8601 time"
            ) from None
        zone = airflow_configuration().get("core", "default_timezone")
        return pendulum.instance(time, tz="local" if zone == "system" else zone)

    def _result(self, claim: Claim) -> dict[str, Any]:
        run = claim.run
        if claim.outcome == "success":
            artifacts = self.hook.call(lambda api: api.artifacts(run.id))
            names = [name for name in artifacts if "/" not in name]
            return {**run.to_json(), "superseded": list(claim.superseded), "artifacts": names}
        what = f"dbt Cloud run {run.id} ended with status {RunStatus(run.status).name.lower()}"
        if claim.outcome == "skipped":
            raise AirflowSkipException(what)
        raise DbtRunError(
            what,
            todo=f"see {run.href}; the task's next try waits for the job's next run",
            connection=self.sensor.dbt_cloud_conn_id,
            job=run.job_id,
        )
