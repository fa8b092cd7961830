"""Sensor that waits for a commit."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pendulum
from airflow.sdk import PokeReturnValue

from airflow_reverse_etl.compat import AirflowFailException, AirflowSensorTimeout, BaseSensorOperator, airflow_errors
from airflow_reverse_etl.hooks.git import GitRepositoryHook
from airflow_reverse_etl.wiring import state_files

if TYPE_CHECKING:
    from airflow_reverse_etl.compat import Context
    from airflow_reverse_etl.git.path_watch import PathVersion


class GitCommitSensor(BaseSensorOperator):
    """Succeeds when a branch's content under a path differs from what this task found before.

    The first time, the branch's present commit counts. Each find is recorded under ``[reverse_etl] state_url``: a
    retried or cleared task of the same DAG run finds the same commit again. One ``git ls-remote`` per poll while the
    branch does not move. Meant for DAGs with ``max_active_runs=1``: two runs at once may find the same commit.

    Returns (XCom): ``git_conn_id``, ``ref``, ``path``, ``commit`` and ``previous``; ``commit`` fits
    ``DbtModelSyncOperator(ref=…)``.

    The sensor does not list the commits in between.

    :param git_conn_id: Airflow connection of type ``git``.
    :param repository: another repository on the connection's host, as its URL or as ``owner/name``; default: the
        connection's own.
    :param ref: branch or tag.
    :param path: folder, relative to the repository's root: only what is below it counts.
    :param deferrable: wait in the triggerer, without a worker slot.
    :param poke_interval: seconds between polls.
    :raises AirflowException: the Git host does not answer.
    :raises AirflowFailException: the branch does not exist, or the credentials are refused.
    """

    template_fields = ("git_conn_id", "repository", "ref", "path")
    ui_color: str = "#f6e4dc"

    def __init__(
        self,
        *,
        git_conn_id: str = "git_default",
        repository: str | None = None,
        ref: str = "main",
        path: str = ".",
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.git_conn_id = git_conn_id
        self.repository = repository
        self.ref = ref
        self.path = path
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Look once, then wait."""
        if not self.deferrable:
            return super().execute(context)
        return self._take_or_defer(context, datetime.now(UTC) + timedelta(seconds=self.timeout))

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        found, _ = self._take(context)
        return PokeReturnValue(is_done=found is not None, xcom_value=found)

    def execute_complete(self, context: Context, event: dict[str, Any], *, until: str) -> Any:
        """Look again after the trigger fired. Its event has no more to say, except for an error."""
        if "error" in event:
            raise AirflowFailException(event["error"])
        return self._take_or_defer(context, datetime.fromisoformat(until))

    def _take_or_defer(self, context: Context, until: datetime) -> dict[str, Any]:
        found, seen = self._take(context)
        if found is not None:
            return found
        left = until - datetime.now(UTC)
        if left <= timedelta(0):
            waited = pendulum.duration(seconds=self.timeout).in_words()
            raise AirflowSensorTimeout(f"No new commit under {self.path!r} in {waited}")
        from airflow_reverse_etl.triggers.git import GitCommitTrigger

        trigger = GitCommitTrigger(
            self.git_conn_id,
            repository=self.repository,
            ref=self.ref,
            path=self.path,
            poll_interval=self.poke_interval,
            seen=seen.to_json(),
        )
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"until": until.isoformat()},
            timeout=min(left, self.execution_timeout or left),
        )
        raise AssertionError("defer raises")

    def _take(self, context: Context) -> tuple[dict[str, Any] | None, PathVersion]:
        """Look at the branch.

        :returns: the task's output, None without a new commit; and the version that was seen.
        """
        from airflow_reverse_etl.git.path_watch import PathVersion, poll

        with airflow_errors():
            ti = context["ti"]
            files = state_files()
            task = "/".join(quote(part, safe="") for part in (ti.dag_id, ti.task_id))
            map_index = -1 if ti.map_index is None else ti.map_index
            place = f"git/{task}/{map_index}.json"
            stored = json.loads(files.read(place) or b"{}")
            asked = {"git_conn_id": self.git_conn_id, "ref": self.ref, "path": self.path}
            if self.repository:
                asked["repository"] = self.repository
            names = (*asked, "repository")
            if {name: stored.get(name) for name in names} != {name: asked.get(name) for name in names}:
                stored = {}
            before = PathVersion.from_json(stored.get("seen"))
            result = {**asked, "commit": before.commit, "previous": stored.get("previous")}
            if stored.get("run_id") == ti.run_id:
                return result, before
            repository = GitRepositoryHook(self.git_conn_id, self.repository).get_conn()
            seen, news = poll(repository, ref=self.ref, path=self.path, seen=before)
            if not news:
                return None, PathVersion(seen.commit, before.content)  # a commit elsewhere in the repository
            result |= {"commit": seen.commit, "previous": before.commit or None}
            record = {**asked, "seen": seen.to_json(), "previous": result["previous"], "run_id": ti.run_id}
            files.write(place, json.dumps(record).encode())
            return result, seen
