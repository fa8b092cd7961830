"""Real processes with rows in jobs, killed by SIGKILL at each arrow of a job's life (semantics "Jobs", rule 14)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast, get_args

import pytest

from airflow_reverse_etl.testing import JobDials
from airflow_reverse_etl.testing.jobs import Arrow
from tests.bulk_api import BulkServer, Kind
from tests.chaos.life import REFUSED, Life, new_database

pytestmark = pytest.mark.slow

of_each_kind = pytest.mark.parametrize("kind", get_args(Kind))
#: Arrows that the life of a job of a kind has.
ARROWS: Mapping[Kind, tuple[Arrow, ...]] = {
    "on_close": get_args(Arrow),
    "at_once": tuple(arrow for arrow in get_args(Arrow) if arrow not in ("mid-upload", "before close", "after close")),
}


@dataclass
class BulkLife(Life):
    """The life of a sync whose rows go in jobs."""

    @property
    def bulk(self) -> BulkServer:
        return cast(BulkServer, self.api)

    def sync(self) -> dict[str, Any]:
        starts = self.bulk.terms.starts
        return {
            **super().sync(),
            "destination": {"type": "bulk", "connection": "bulk", "object": starts, "match_on": "id"},
        }

    @property
    def written(self) -> Counter[tuple[str, int]]:
        keys = self.bulk.written().elements()
        return Counter((key, 0) for key in keys)

    async def killed_at(self, arrow: Arrow) -> None:
        """Try the current run, whose process is killed at an arrow."""
        self.bulk.dials.die = arrow
        before = len(self.bulk.killed)
        async with self.process():
            pass
        assert self.bulk.killed[before:] == [arrow]


@asynccontextmanager
async def bulk_life(folder: Path, kind: Kind, postgres: Mapping[str, str] | None = None) -> AsyncIterator[BulkLife]:
    api: Any = BulkServer(kind, dials=JobDials(polls=1, reject=REFUSED), page=20)
    async with await api.serve():
        yield BulkLife(folder, "insert", api, postgres=postgres, rows=60, random=Random(0))


async def survive(it: BulkLife, kind: Kind) -> None:
    """Kill a process at each arrow; then its next try comes, or the next run."""
    for at, arrow in enumerate(ARROWS[kind]):
        it.next_run()
        await it.killed_at(arrow)
        if at % 2:
            it.next_run()
        await it.finish()
        it.check()
        if kind == "on_close":
            assert it.unknown() == 0, "who was asked knows of every row"
            assert set(it.written.values()) == {1}


@of_each_kind
async def test_killed_at_each_arrow_with_state_in_files(tmp_path: Path, kind: Kind) -> None:
    async with bulk_life(tmp_path, kind) as it:
        await survive(it, kind)


@pytest.mark.slow
@of_each_kind
async def test_killed_at_each_arrow_with_state_in_postgres(tmp_path: Path, postgres: str, kind: Kind) -> None:
    async with bulk_life(tmp_path, kind, new_database(postgres)) as it:
        await survive(it, kind)
