"""Git, the catalog and ``reverse-etl check`` on a project of 2,000 models and 300 syncs. ``python -m
tests.benchmarks.bench_check``.

Each is a process of its own, whose bytecode is cached as it is on a worker. Seconds are of processor time, git's
included, so that other work on the machine does not count. They are beyond Python's own start, except those of the
check, which include it, and those of the no-change sync, a whole task, which are beyond Airflow's. The git server is
``git http-backend`` on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import ROOT
from tests.dbt.projects import keyed, manifest, model, source
from tests.git.servers import HttpServer, Origin, http_server

MODELS, SYNCS, SOURCES = 2_000, 300, 400
_COLUMNS = 20
_OTHER_FILES, _OTHER_BYTES = 60, 1_000_000

#: A task without a change; as in a worker, Airflow itself and the connection are there before. With arguments: without
#: dbt, the task before it, whose catalog is stored already.
_NO_CHANGE = """
import resource, sys
from types import SimpleNamespace
from airflow_reverse_etl.wiring import connection_info, state_files
from airflow_reverse_etl.operators import DbtModelSyncOperator
operator = DbtModelSyncOperator(task_id="models", git_conn_id="git_bench", project_path="dbt")
connection_info("git_bench")
if len(sys.argv) > 1:
    url, commit, catalog = sys.argv[1:]
    key = operator._key(url, "dbt", None, env={})
    state_files().write(f"catalogs/{key}/{commit}.json", open(catalog, "rb").read())
def used():
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)
before, events = used(), []
found = operator.execute({
    "ti": SimpleNamespace(dag_id="bench", task_id="models"),
    "outlet_events": {operator._alias: SimpleNamespace(add=lambda asset, extra: events.append(asset))},
})
assert found["models"] == 2000 and len(events) == len(sys.argv[1:2])
open("seconds", "w").write(str(used() - before))
"""
_CATALOG = """
import sys
from pathlib import Path
from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.dbt.manifest import load
Path(sys.argv[2]).write_bytes(read_manifest(load(Path(sys.argv[1]).read_bytes())).to_json())
"""
_CLONE = """
import sys
from pathlib import Path
from airflow_reverse_etl.git.repository import Repository
repository = Repository(sys.argv[1], allow_protocols=("http",))
repository.checkout(repository.head(), path=sys.argv[2], under=Path(sys.argv[3]))
"""


def main() -> list[dict[str, Any]]:
    """Seconds of each, beside its target or what it is compared with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = _python(folder, "-c", "pass")
        base = _project(folder / "base.json")
        catalog = _python(folder, "-c", _CATALOG, str(base), str(folder / "stored.json")) - start
        return [
            _result("2,000-model manifest to stored catalog", catalog, "target", 1.0),
            *_repository(folder, start),
            *_checks(folder, base),
        ]


def _repository(folder: Path, start: float) -> list[dict[str, Any]]:
    origin = Origin.create(folder / "git")
    files = {f"other/{at}.bin": os.urandom(_OTHER_BYTES // 2).hex() for at in range(_OTHER_FILES)}
    models = {f"dbt/models/m{at}.sql": f"select {at} as id" for at in range(MODELS)}
    commit = origin.commit({"dbt/dbt_project.yml": "name: shop", **models, **files})
    with http_server(folder / "git") as server:
        connection = {"conn_type": "git", "host": server.url(), "extra": {"allow_protocols": ["http"]}}
        airflow = {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW_CONN_GIT_BENCH": json.dumps(connection),
            "AIRFLOW__REVERSE_ETL__STATE_URL": str(folder / "state"),
        }
        _python(folder, "-c", _NO_CHANGE, server.url(), commit, str(folder / "stored.json"), n=1, **airflow)
        same = []
        for _ in range(3):
            _python(folder, "-c", _NO_CHANGE, n=1, **airflow)
            same.append(float((folder / "seconds").read_text()))
        clone = [
            _python(folder, "-c", _CLONE, server.url(), "dbt", str(folder / f"c{at}"), n=1) - start for at in "123"
        ]
        sent = _sent(server, folder)
        whole = _seconds(
            ["git", "clone", "--quiet", "--depth=1", server.url(), str(folder / "whole")], dict(os.environ)
        )
    return [
        _result("no-change sync of 2,000 models", min(same), "target", 0.2),
        _result("clone of the project's path, 2,000 files", min(clone), "whole, depth 1", whole),
        {**_result("the same, sent by the server", sent / 1e6, "whole, depth 1", _size(origin) / 1e6), "unit": "MB"},
    ]


def _sent(server: HttpServer, folder: Path) -> int:
    server.sent = 0
    _python(folder, "-c", _CLONE, server.url(), "dbt", str(folder / "measured"), n=1)
    return server.sent


def _size(origin: Origin) -> int:
    return sum(path.stat().st_size for path in (origin.bare / "objects").rglob("*") if path.is_file())


def _checks(folder: Path, base: Path) -> list[dict[str, Any]]:
    """Measure the check without a change, with 1, 20 and 40 changed models, and with 20 that dbt compiled."""
    _syncs(folder / "syncs")
    changes: dict[str, tuple[Collection[int], bool]] = {
        "no change": ((), False),
        "1 model changed": ((MODELS - 1,), False),
        "1% of models changed": (range(0, MODELS, 100), False),
        "40 models changed": (range(0, MODELS, 50), False),
        "1% changed, compiled SQL": (range(0, MODELS, 100), True),
    }
    results = []
    for what, (changed, compiled) in changes.items():
        before = _project(folder / "before.json", compiled=True) if compiled else base
        head = _project(folder / "head.json", changed, compiled=compiled)
        sides = ["--base", str(before), "--head", str(head), "--syncs", str(folder / "syncs")]
        seconds = _python(folder, "-m", "airflow_reverse_etl.cli.main", "check", *sides, codes=(0, 3))
        target = 5.0 if len(changed) >= 40 else 3.0
        results.append(_result(f"check of 300 syncs, {what}", seconds, "target", target))
    return results


def _result(name: str, seconds: float, peer: str, peer_value: float) -> dict[str, Any]:
    ratio = peer_value / seconds
    return {"name": name, "value": seconds, "unit": "s", "peer": peer, "peer_value": peer_value, "ratio": ratio}


def _python(folder: Path, *arguments: str, codes: Collection[int] = (0,), n: int = 3, **more: str) -> float:
    """Seconds that a Python process takes: the least disturbed of some, after one that fills the bytecode cache.

    :param more: environment variables. The process runs in ``folder``.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONPATH": path, **more}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds = [_seconds([sys.executable, *arguments], environment, codes, cwd=folder) for _ in range(n + (n > 1))]
    return min(seconds[-n:])


def _seconds(command: list[str], environment: dict[str, str], codes: Collection[int] = (0,), **how: Any) -> float:
    """Processor time of a process and its children."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, **how)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in codes, command
    return used.ru_utime + used.ru_stime


def _project(path: Path, changed: Collection[int] = (), *, compiled: bool = False) -> Path:
    """Staging models over sources, and models that each join two others."""
    nodes = [source(f"s{at}") for at in range(SOURCES)]
    for at in range(MODELS):
        nodes += [_model(at, changed=at in changed, compiled=compiled), *keyed(f"m{at}")]
    path.write_text(json.dumps(manifest(*nodes)))
    return path


def _model(at: int, *, changed: bool, compiled: bool) -> dict[str, Any]:
    names = [f"c{n}" for n in range(_COLUMNS)]
    columns = {"id": "integer", "email": "varchar", **dict.fromkeys(names, "")}
    more = " where id > 5" if changed else ""
    if at < SOURCES:
        sql = f"select id, email, {', '.join(names)} from {{{{ source('raw', 's{at}') }}}}{more}"
        built = sql.replace(f"{{{{ source('raw', 's{at}') }}}}", f'"db"."raw"."s{at}"') if compiled else None
        return model(f"m{at}", sql, parents=[f"source.shop.raw.s{at}"], columns=columns, compiled=built)
    left, right = f"m{at - SOURCES}", f"m{at * 7 % SOURCES}"
    merged = ", ".join(f"coalesce(a.{name}, b.{name}) as {name}" for name in names)
    sql = (
        f"with a as (select * from {{{{ ref('{left}') }}}}{more}), b as (select * from {{{{ ref('{right}') }}}})\n"
        f"select a.id, a.email, {merged} from a left join b on a.id = b.id"
    )
    built = None
    if compiled:
        built = sql
        for name in (left, right):
            built = built.replace(f"{{{{ ref('{name}') }}}}", f'"db"."main"."{name}"')
    return model(f"m{at}", sql, parents=[left, right], columns=columns, compiled=built)


def _syncs(folder: Path) -> None:
    folder.mkdir()
    for at in range(SYNCS):
        sync = {
            "name": f"sync_{at}",
            "model": f"m{MODELS - 1 - at * 3}",
            "source": "warehouse",
            "destination": {"type": "http", "object": "contacts"},
            "mapping": {"email": "email", "a.b": "c1", "a.c": {"sql": "upper(c2)"}, "d": {"template": "{{ row.c3 }}"}},
        }
        (folder / f"{at}.yaml").write_text(json.dumps(sync))


if __name__ == "__main__":
    for result in main():
        peer = f"{result['peer']:>16}{result['peer_value']:>9.2f}"
        print(f"{result['name']:<50}{result['value']:>8.2f} {result['unit']:<3}{peer}")
