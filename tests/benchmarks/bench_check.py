"""How long ``reverse-etl check`` takes on a large project: 2,000 models, 300 syncs, Python's start included."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Any

from tests.dbt.projects import keyed, manifest, model, source

MODELS, SYNCS, SOURCES = 2_000, 300, 400
_COLUMNS = 20


def main() -> list[dict[str, Any]]:
    """Seconds for a change of nothing, of one model, and of one in a hundred."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _syncs(folder / "syncs")
        base = _project(folder / "base.json")
        changes: dict[str, Collection[int]] = {
            "no change": (),
            "1 model changed": (MODELS - 1,),
            "1% of models changed": range(0, MODELS, 100),
        }
        results = []
        for what, changed in changes.items():
            head = _project(folder / "head.json", changed)
            seconds = median(_run(base, head, folder / "syncs") for _ in range(3))
            results.append(_result(f"check, 2,000 models, 300 syncs, {what}", seconds))
    return results


def _result(name: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "value": seconds, "unit": "s", "peer": "", "peer_value": None, "ratio": None}


def _run(base: Path, head: Path, syncs: Path) -> float:
    command = [sys.executable, "-m", "airflow_reverse_etl.cli", "check"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--base", str(base), "--head", str(head), "--syncs", str(syncs)], capture_output=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr.decode()
    return time.perf_counter() - started


def _project(path: Path, changed: Collection[int] = ()) -> Path:
    """Staging models over sources, and models that each join two others."""
    nodes = [source(f"s{at}") for at in range(SOURCES)]
    for at in range(MODELS):
        nodes += [_model(at, changed=at in changed), *keyed(f"m{at}")]
    path.write_text(json.dumps(manifest(*nodes)))
    return path


def _model(at: int, *, changed: bool) -> dict[str, Any]:
    names = [f"c{n}" for n in range(_COLUMNS)]
    columns = {"id": "integer", "email": "varchar"}
    more = " where id > 5" if changed else ""
    if at < SOURCES:
        sql = f"select id, email, {', '.join(names)} from {{{{ source('raw', 's{at}') }}}}{more}"
        return model(f"m{at}", sql, parents=[f"source.shop.raw.s{at}"], columns=columns)
    left, right = f"m{at - SOURCES}", f"m{at * 7 % SOURCES}"
    merged = ", ".join(f"coalesce(a.{name}, b.{name}) as {name}" for name in names)
    sql = (
        f"with a as (select * from {{{{ ref('{left}') }}}}{more}), b as (select * from {{{{ ref('{right}') }}}})\n"
        f"select a.id, a.email, {merged} from a left join b on a.id = b.id"
    )
    return model(f"m{at}", sql, parents=[left, right], columns=columns)


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
        print(f"{result['name']:<55}{result['value']:>6.2f} {result['unit']}")
