"""What ``DbtOperator`` keeps under the state URL: the last successful manifest, and what retries and gates need."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_reverse_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.runner import NodeResult
    from airflow_reverse_etl.stores.files import StateFiles

LAST_SUCCESSFUL = "last_successful"
_KEEP_RUNS = 50
_OF_STATE = re.compile(r"@?(\d*\+)?(state|result|source_status):")
#: Commands whose success means that the project's tables are as its manifest says.
BUILDING = ("build", "run")


class DbtState:
    """The files of one task instance.

    :param task: the task as a part of a path.
    :param run: what tells its run from others.
    :param project: what tells the project from others: repository and path, or a folder's name.
    """

    def __init__(
        self,
        files: StateFiles,
        *,
        task: str,
        run: str,
        try_number: int,
        max_tries: int,
        project: str,
        target: str | None,
    ) -> None:
        self.files = files
        self.try_number = try_number
        self.max_tries = max_tries
        self._project = hashlib.sha256(project.encode()).hexdigest()[:16]
        self._target = target
        self._before: dict[str, Any] | None = None
        self._run = hashlib.sha256(run.encode()).hexdigest()[:16]
        self._failed = f"dbt_failed/{task}/{self._run}"
        self._runs = f"dbt_runs/{task}"

    # -- the last successful manifest ------------------------------------------------------------------------------

    def last_successful(self, state: str, folder: Path) -> bool:
        """Fetch the manifest that ``last_successful`` or ``last_successful:<target>`` means. False: there is none."""
        data = self.files.read(self._manifest(state.partition(":")[2] or self._target))
        if data is not None:
            (folder / "manifest.json").write_bytes(data)
        return data is not None

    def keep_manifest(self, select: Sequence[str], exclude: object, target_path: Path) -> None:
        """Keep the manifest of a success for the next run, if that was of everything that changed."""
        whole = not exclude and all(part.startswith("state:modified") and part.endswith("+") for part in select)
        if whole and (target_path / "manifest.json").is_file():
            self.files.write(self._manifest(self._target), (target_path / "manifest.json").read_bytes())

    def _manifest(self, target: str | None) -> str:
        return f"dbt_state/{self._project}/{quote(target or 'default', safe='')}/manifest.json"

    # -- a retry of what failed ------------------------------------------------------------------------------------

    def keep_failure(self, target_path: Path) -> None:
        """Keep the results for the next try, without what may repeat a row's values."""
        if not (target_path / "run_results.json").is_file():
            return  # of source freshness, which is asked for as a whole again
        results = json.loads((target_path / "run_results.json").read_bytes())
        if self._before:  # this was a retry: its results in place of those before, whose command is the one to repeat
            again = {row["unique_id"]: row for row in results["results"]}
            results = {**self._before, "results": [again.get(row["unique_id"], row) for row in self._before["results"]]}
        for row in results["results"]:
            row |= {"message": None, "compiled_code": None, "adapter_response": {}}
        record = {"try_number": self.try_number, "max_tries": self.max_tries}
        self.files.write(f"{self._failed}/run_results.json", json.dumps(results).encode())
        self.files.write(f"{self._failed}/record.json", json.dumps(record).encode())

    def forget_failure(self) -> None:
        """The task succeeded."""
        self.files.delete(self._failed)

    def failed_before(self, folder: Path) -> bool:
        """Fetch the results of the try before, if this is its retry. A task that was cleared begins anew."""
        record = json.loads(self.files.read(f"{self._failed}/record.json") or b"{}")
        if record != {"try_number": self.try_number - 1, "max_tries": self.max_tries}:  # clearing raises max_tries
            return False
        data = self.files.read(f"{self._failed}/run_results.json")
        if data is None:
            return False
        self._before = json.loads(data)
        if (folder / "manifest.json").is_file():  # dbt looks where the try before had the state to compare with
            self._before["args"]["state"] = str(folder)
        (folder / "run_results.json").write_text(json.dumps(self._before))
        return True

    # -- the gate --------------------------------------------------------------------------------------------------

    def keep_evidence(self, command: str, target_path: Path, nodes: Sequence[NodeResult]) -> str | None:
        """Keep what judges each model of this run. Returns the path; None: the command says nothing of tables."""
        from airflow_reverse_etl.dbt.gate import TELLING, evidence

        if command not in TELLING or not nodes or not (target_path / "manifest.json").is_file():
            return None
        manifest = json.loads((target_path / "manifest.json").read_bytes())
        place = f"{self._runs}/{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%f')}-{self._run}.json"
        found = evidence(manifest, {node.unique_id: node.status for node in nodes})
        self.files.write(place, json.dumps(found, separators=(",", ":")).encode())
        for old in self.files.list(self._runs)[:-_KEEP_RUNS]:
            self.files.delete(f"{self._runs}/{old}")
        return place


def without_state(select: Sequence[str]) -> list[str]:
    """The selectors as they are while there is no state to compare with: all is new. Empty: everything."""
    kept = [",".join(word for word in part.split(",") if not _OF_STATE.match(word)) for part in select]
    return kept if all(kept) else []


def merge_results(folder: Path, nodes: Sequence[NodeResult]) -> tuple[NodeResult, ...]:
    """The results of the try before, with those of ``dbt retry`` in place of what it ran again."""
    from airflow_reverse_etl.dbt.runner import NodeResult

    before = json.loads((folder / "run_results.json").read_bytes())["results"]
    found = {
        row["unique_id"]: NodeResult(row["unique_id"], row["status"], "", float(row.get("execution_time") or 0))
        for row in before
    }
    return tuple({**found, **{node.unique_id: node for node in nodes}}.values())


def gate_reasons(files: StateFiles, gate: Sequence[Mapping[str, Any] | None], unique_id: str) -> tuple[str, ...]:
    """Why the gate is closed for a model, by the outputs of ``DbtOperator`` tasks; empty: it is open.

    :raises ConfigurationError: an output whose evidence is not under the state URL.
    """
    from airflow_reverse_etl.dbt.gate import closed, merge_evidence

    found = []
    for output in gate:
        if not output or not output.get("gate"):
            continue  # did not run, or had nothing to do: what it would have told is not known, which is a reason
        data = files.read(output["gate"])
        if data is None:
            raise ConfigurationError(
                "the dbt run's results are not under the state URL (any more)",
                todo="run dbt again; every worker must have the same [reverse_etl] state_url",
                file=files.child(output["gate"]),
            )
        found.append(json.loads(data))
    missing = () if all(gate) else ("a dbt task before has left no result",)
    if not found:
        return missing or ("dbt has built and tested nothing",)
    return (*closed(merge_evidence(found), unique_id), *missing)
