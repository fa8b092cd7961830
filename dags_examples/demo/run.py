"""``make demo``: send a dbt model from Git to a CRM through Airflow, three times, and check every result.

Runs ``activate_contacts.py`` in an Airflow of its own under ``build/demo``, with SQLite for Airflow's metadata, DuckDB
as the warehouse, a Git repository with the dbt project, and a CRM as an HTTP server. The first run sends everything.
Then a commit changes the model, and rows are added, changed and removed. The second run sends only these changes; the
CRM refuses one row. The third run sends only that row again.

Starts from scratch each time and leaves no process behind. If a result differs from the expected one, the demo prints
the difference and exits with 1.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dags_examples.demo.airflow_home import AirflowHome, DemoError  # noqa: E402 - run as a script, from anywhere
from dags_examples.demo.crm import BLOCKED_DOMAINS  # noqa: E402
from dags_examples.demo.screen import Step, heading, note, say, table  # noqa: E402
from dags_examples.demo.shop import Crm, Repository, Warehouse  # noqa: E402

BUILD = ROOT / "build" / "demo"
LOG = BUILD / "tasks.log"
Rows = dict[int, tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Expected:
    """Counts that a run must report, computed here from the model's rows before and after."""

    added: int
    changed: int
    removed: int
    rejected: int

    @classmethod
    def of(cls, delivered: Rows, model: Rows) -> Expected:
        new = model.keys() - delivered.keys()
        kept = model.keys() & delivered.keys()
        return cls(
            added=len(new),
            changed=sum(model[key] != delivered[key] for key in kept),
            removed=len(delivered.keys() - model.keys()),
            rejected=sum(_refused(model[key]) for key in new),
        )

    @property
    def rows(self) -> int:
        return self.added + self.changed + self.removed


def _refused(row: tuple[str, dict[str, Any]]) -> bool:
    return row[0].rsplit("@")[1] in BLOCKED_DOMAINS


def model_rows(warehouse: Warehouse) -> Rows:
    """Return the model as the CRM should hold it: key → e-mail address and properties."""
    found = warehouse.query(
        "select customer_id, email, first_name, upper(plan), lifetime_value::double from analytics.customers"
    )
    return {
        key: (email, {"first_name": name, "plan": plan, "lifetime_value": value, "origin": "warehouse"})
        for key, email, name, plan, value in found
    }


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit normally, so that started processes end, too
    started = time.monotonic()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    try:
        demo()
    except DemoError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    print(f"\n  All as expected, in {time.monotonic() - started:.0f} seconds.")
    return 0


def demo() -> None:
    heading("A dbt model in Git → a CRM, through Airflow, three times")
    with Crm.running(BUILD / "crm.sqlite", BUILD / "crm.log") as crm:
        warehouse = Warehouse(BUILD / "warehouse.duckdb")
        repository = Repository(BUILD / "repository")
        airflow = AirflowHome(
            BUILD / "airflow",
            dags=ROOT / "dags_examples",
            log=LOG,
            connections=_connections(crm, warehouse, repository),
        )
        step = Step("airflow")
        for _ in airflow.command("db", "migrate"):
            step.tick("airflow")
        step.done("airflow", "a home and a database of its own, in build/demo")
        Demo(airflow, crm, warehouse, repository).run()


def _connections(crm: Crm, warehouse: Warehouse, repository: Repository) -> dict[str, dict[str, Any]]:
    return {
        "git_dbt": {"conn_type": "git", "host": repository.path.as_uri(), "extra": {"allow_protocols": ["file"]}},
        "warehouse": {"conn_type": "duckdb", "host": str(warehouse.path), "schema": "analytics"},
        "crm": {"conn_type": "reverse_etl_http", "host": crm.url, "password": crm.token},
    }


class Demo:
    """The three runs of the DAG."""

    def __init__(self, airflow: AirflowHome, crm: Crm, warehouse: Warehouse, repository: Repository) -> None:
        self._airflow = airflow
        self._crm = crm
        self._warehouse = warehouse
        self._repository = repository
        self._delivered: Rows = {}
        self._reports: list[dict[str, Any]] = []

    def run(self) -> None:
        heading("Run 1: everything is new")
        self._run_dag()
        heading("Run 2: a commit changed the model, and the data changed")
        self._change()
        self._run_dag()
        heading("Run 3: nothing changed")
        self._run_dag()
        (BUILD.parent / "demo.json").write_text(json.dumps({"runs": self._reports}, indent=2) + "\n")
        self._summary()

    def _change(self) -> None:
        self._warehouse.change()
        self._repository.edit("models/marts/customers.sql", "sum(amount)", "round(sum(amount))")
        commit = self._repository.commit("Lifetime value in whole euros")
        say(
            f"Commit {commit}: lifetime value in whole euros. Data: 6 customers are new, one of them with an address "
            "that the CRM blocks; some changed their plan, 3 left."
        )

    def _run_dag(self) -> None:
        """Run the DAG once, show its progress, and compare the results with the expected ones."""
        before = self._crm.counts()
        started = time.monotonic()
        report = self._watch()
        received = {name: count - before[name] for name, count in self._crm.counts().items()}
        self._print_report(report, received["throttled"])
        self._reports.append({**report, "throttled": received["throttled"], "wall_seconds": time.monotonic() - started})
        model = model_rows(self._warehouse)
        self._check(report, Expected.of(self._delivered, model), received)
        self._delivered = {key: row for key, row in model.items() if not _refused(row)}
        _expect("contacts in the CRM", dict(self._delivered.values()), self._crm.contacts())

    def _watch(self) -> dict[str, Any]:
        """Run the DAG and print a line for each task when it ends; return the sync's report."""
        results: dict[str, Any] = {}
        step = Step("airflow")
        for tasks in self._airflow.run("activate_contacts"):
            found = {task.task_id: task for task in tasks if task.state == "success"}
            for name in [name for name in _DETAILS if name in found and name not in results]:
                results[name] = found[name].result
                step.done(name, _DETAILS[name](found[name].result), found[name].seconds)
                step = Step("")
            step.tick(next((name for name in _DETAILS if name not in results), "airflow"))
        report: dict[str, Any] = results["contacts"]
        return report

    def _print_report(self, report: dict[str, Any], throttled: int) -> None:
        requests = "1 request" if report["requests"] == 1 else f"{report['requests']} requests"
        note(f"{report['accepted']:,} accepted, {report['rejected']:,} rejected, in {requests}")
        if throttled:
            note(f"the CRM answered {throttled} of them with 429, too many requests; the sync waited as asked")
        for reason in report["reasons"]:
            note(f"{reason['code']}: {reason['message']}")

    def _check(self, report: dict[str, Any], expected: Expected, received: dict[str, int]) -> None:
        run = f"run {len(self._reports)}, "
        planned = {"added": expected.added, "changed": expected.changed, "removed": expected.removed, "invalid": 0}
        _expect(f"{run}planned rows", planned, report["planned"])
        _expect(f"{run}accepted rows", expected.rows - expected.rejected, report["accepted"])
        _expect(f"{run}rejected rows", expected.rejected, report["rejected"])
        _expect(f"{run}rows that reached the CRM", expected.rows, received["rows"])
        _expect(f"{run}requests as the CRM counts them", received["requests"], report["requests"])
        codes = [reason["code"] for reason in report["reasons"]]
        _expect(f"{run}codes of refusal", ["BLOCKED_DOMAIN"] * expected.rejected, codes)

    def _summary(self) -> None:
        heading("What was sent")
        planned = ("added", "changed", "removed")
        outcomes = ("accepted", "rejected", "requests", "throttled")
        rows = []
        for number, report in enumerate(self._reports, 1):
            counts = [report["planned"][name] for name in planned] + [report[name] for name in outcomes]
            rows.append([number, *counts, round(report["wall_seconds"])])
        table(["run", *planned, *outcomes[:3], "429s", "seconds"], rows)
        contacts = self._crm.contacts()
        heading(f"What the CRM holds: {len(contacts):,} contacts, all equal to the model's rows. Some of them:")
        fields = ("first_name", "plan", "lifetime_value", "origin")
        shown = [email for email in contacts if email.startswith(("customer10@", "customer103@", "customer2001@"))]
        cells = []
        for email in shown:
            values = [_cell(contacts[email][name]) for name in fields]
            cells.append([email, *values])
        table(["email", *fields], cells)
        self._where_next()

    def _where_next(self) -> None:
        settings = BUILD / "airflow.env"
        lines = [f"export {name}='{value}'" for name, value in self._airflow.settings.items()]
        settings.write_text("\n".join([*lines, f"export PATH='{Path(sys.executable).parent}':$PATH", ""]))
        heading("Where to look next")
        for what, where in {
            "the DAG": "dags_examples/activate_contacts.py",
            "the sync": "dags_examples/syncs/contacts_to_crm.yaml",
            "the dbt project": "dags_examples/dbt_project/models/marts/customers.sql",
            "the tasks' log": _relative(LOG),
            "the runs' reports": _relative(BUILD.parent / "demo.json"),
            "the runs in the UI": f"(. {_relative(settings)} && airflow standalone)",
            "": "then http://127.0.0.1:8080",
        }.items():
            print(f"  {what:<20}{where}")


def _models(output: dict[str, Any]) -> str:
    return f"{output['models']} models at commit {output['commit'][:7]}"


def _dbt_build(output: dict[str, Any]) -> str:
    return f"{output['counts'].get('success', 0)} models built, {output['counts'].get('pass', 0)} tests passed"


def _contacts(report: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in report["planned"].items() if count) or "no change"


_DETAILS = {"models": _models, "dbt_build": _dbt_build, "contacts": _contacts}


def _expect(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise DemoError(
            f"{what}: expected {_shortened(expected)}, found {_shortened(found)}. The tasks' log is {_relative(LOG)}"
        )


def _cell(value: Any) -> Any:
    return value if isinstance(value, str) else float(value)


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]} …"


def _relative(path: Path) -> str:
    """Return a path relative to the project's folder, if it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
