"""State of ``DbtOperator`` under the state URL: the last successful manifest, and the results for retries and gates."""

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
_STATE_SELECTOR = re.compile(r"@?(\d*\+)?(state|result|source_status):")
#: Commands whose success means that the project's tables match its manifest.
BUILDING = ("build", "run")


class DbtState:
    """State files of one task instance.

    :param task: the task, as a part of a path.
    :param run: text that identifies the run.
    :param project: text that identifies the project: repository and path, or a folder's name.
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
        """Write the manifest that ``last_successful`` or ``last_successful:<target>`` names into a folder.

        :returns: False if the manifest does not exist.
        """
        data = self.files.read(self._manifest(state.partition(":")[2] or self._target))
        if data is not None:
            (folder / "manifest.json").write_bytes(data)
        return data is not None

    def keep_manifest(self, select: Sequence[str], exclude: object, target_path: Path) -> None:
        """Store the manifest of a successful run for the next run, if the run covered everything that changed."""
        complete = not exclude and all(part.startswith("state:modified") and part.endswith("+") for part in select)
        if complete and (target_path / "manifest.json").is_file():
            self.files.write(self._manifest(self._target), (target_path / "manifest.json").read_bytes())

    def _manifest(self, target: str | None) -> str:
        return f"dbt_state/{self._project}/{quote(target or 'default', safe='')}/manifest.json"

    # -- a retry of what failed ------------------------------------------------------------------------------------

    def keep_failure(self, target_path: Path) -> None:
        """Store the results for the next try, without the fields that may contain values of rows."""
        if not (target_path / "run_results.json").is_file():
            return  # a freshness check, which the next try repeats as a whole
        results = json.loads((target_path / "run_results.json").read_bytes())
        if self._before:
            # This was a retry. The next one repeats the command of the first try, so the new results go into its file.
            repeated = {row["unique_id"]: row for row in results["results"]}
            merged = [repeated.get(row["unique_id"], row) for row in self._before["results"]]
            results = {**self._before, "results": merged}
        for row in results["results"]:
            row |= {"message": None, "compiled_code": None, "adapter_response": {}}
        record = {"try_number": self.try_number, "max_tries": self.max_tries}
        self.files.write(f"{self._failed}/run_results.json", json.dumps(results).encode())
        self.files.write(f"{self._failed}/record.json", json.dumps(record).encode())

    def forget_failure(self) -> None:
        """Delete the results of a failed try, once the task has succeeded."""
        self.files.delete(self._failed)

    def failed_before(self, folder: Path) -> bool:
        """Write the results of the previous try into a folder, if this try is its retry.

        :returns: False for a first try, and for a cleared task, which starts from scratch.
        """
        record = json.loads(self.files.read(f"{self._failed}/record.json") or b"{}")
        if record != {"try_number": self.try_number - 1, "max_tries": self.max_tries}:  # clearing raises max_tries
            return False
        data = self.files.read(f"{self._failed}/run_results.json")
        if data is None:
            return False
        self._before = json.loads(data)
        if (folder / "manifest.json").is_file():  # dbt reads the state from the path that the results name
            self._before["args"]["state"] = str(folder)
        (folder / "run_results.json").write_text(json.dumps(self._before))
        return True

    # -- the gate --------------------------------------------------------------------------------------------------

    def keep_evidence(self, command: str, target_path: Path, nodes: Sequence[NodeResult]) -> str | None:
        """Store the results that open or close the gate for each model of this run.

        :returns: the path under the state URL; None if the command's results are not about tables.
        """
        from airflow_reverse_etl.dbt.gate import GATED_COMMANDS, evidence

        if command not in GATED_COMMANDS or not nodes or not (target_path / "manifest.json").is_file():
            return None
        manifest = json.loads((target_path / "manifest.json").read_bytes())
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = f"{self._runs}/{time}-{self._run}.json"
        found = evidence(manifest, {node.unique_id: node.status for node in nodes})
        self.files.write(path, json.dumps(found, separators=(",", ":")).encode())
        for old in self.files.list(self._runs)[:-_KEEP_RUNS]:
            self.files.delete(f"{self._runs}/{old}")
        return path


def without_state(select: Sequence[str]) -> list[str]:
    """Return the selectors without conditions on state, for a run without a state. An empty list selects everything."""
    remaining = [_without_state_conditions(selector) for selector in select]
    return remaining if all(remaining) else []


def _without_state_conditions(selector: str) -> str:
    return ",".join(condition for condition in selector.split(",") if not _STATE_SELECTOR.match(condition))


def merge_results(folder: Path, nodes: Sequence[NodeResult]) -> tuple[NodeResult, ...]:
    """Return the results of the previous try, updated with those of the nodes that ``dbt retry`` ran again."""
    from airflow_reverse_etl.dbt.runner import NodeResult

    results = {}
    for row in json.loads((folder / "run_results.json").read_bytes())["results"]:
        seconds = float(row.get("execution_time") or 0)
        results[row["unique_id"]] = NodeResult(row["unique_id"], row["status"], "", seconds)
    for node in nodes:
        results[node.unique_id] = node
    return tuple(results.values())


def gate_evidence(files: StateFiles, gate: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the merged evidence of a gate; None without any.

    :param gate: outputs of ``DbtOperator`` tasks.
    :raises ConfigurationError: the evidence of an output is not under the state URL.
    """
    from airflow_reverse_etl.dbt.gate import merge_evidence

    found = []
    for output in gate:
        if not output or not output.get("gate"):
            continue  # the task was skipped or produced no results; without results the gate stays closed
        data = files.read(output["gate"])
        if data is None:
            raise ConfigurationError(
                "the dbt run's results were not found under the state URL",
                todo="run dbt again, with the same [reverse_etl] state_url on every worker",
                file=files.child(output["gate"]),
            )
        found.append(json.loads(data))
    return merge_evidence(found) if found else None


def gate_reasons(
    gate: Sequence[Mapping[str, Any] | None], evidence: Mapping[str, Any] | None, unique_id: str
) -> tuple[str, ...]:
    """Return the reasons that close the gate for a model, empty if the gate is open.

    :param gate: outputs of ``DbtOperator`` tasks.
    :param evidence: what :func:`gate_evidence` returned for them.
    """
    from airflow_reverse_etl.dbt.gate import closed_reasons

    missing = () if all(gate) else ("an upstream dbt task produced no result",)
    if evidence is None:
        return missing or ("dbt has built and tested nothing",)
    return (*closed_reasons(evidence, unique_id), *missing)
