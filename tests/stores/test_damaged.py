"""Damaged state: a typed error with what to do, and never a plan or a load that takes it for missing."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import ReverseEtlError, StateError
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.progress import Checkpoint
from tests.stores.bench import REJECTED, Bench, sync_of

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "of zeros": lambda data: bytes(len(data)),
    "of text": lambda _: b"not what it was",
    "of JSON": lambda _: b"{}",
    "of a JSON list": lambda _: b"[1]",
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A sync with a snapshot, a rejection, and a plan of which rows may have been sent."""
    b = Bench(LakeStore(str(tmp_path / "state"), change_log=True), sync_of("mirror"))
    b.model([(at, f"e{at}", at) for at in range(20)])
    b.run({"3": REJECTED})
    b.model([(at, f"e{at}", at + 1) for at in range(5, 25)])
    return b


def begun(b: Bench) -> Plan:
    """Plan a run, and record that some rows may have been sent, and that one was refused."""
    plan = b.plan()
    assert set(plan.ranges()) == {"removed", "changed", "added"}
    checkpoint = Checkpoint()
    checkpoint.resume(0)
    checkpoint.announce(9)
    checkpoint.settle([1, 2, 3])
    checkpoint.fail(4, REJECTED)
    b.store.begin_try(plan)
    b.store.save_checkpoint(plan, checkpoint, try_number=1)
    return plan


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_never_one_of_which_nothing_was_sent(bench: Bench, tmp_path: Path, damage: str) -> None:
    plan = begun(bench)
    [file] = tmp_path.rglob("checkpoint-*.json")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    for read in (bench.store.load_checkpoint, bench.store.checkpoints):
        with pytest.raises(StateError, match="a checkpoint is") as error:
            read(plan)
        assert file.name in str(error.value)
        assert "sends once more what was sent" in str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_never_one_that_does_not_exist(bench: Bench, tmp_path: Path, damage: str) -> None:
    plan = begun(bench)
    [file] = tmp_path.rglob("plan.json")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    for read in (lambda: bench.store.unfinished("s"), lambda: bench.rows(plan), lambda: bench.commit(plan)):
        with pytest.raises(StateError, match="a plan is") as error:
            read()
        assert str(file.relative_to(tmp_path / "state")) in str(error.value)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["removed", "changed", "added"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_change_set_is_not_a_shorter_one(bench: Bench, tmp_path: Path, damage: str, kind: str) -> None:
    plan = begun(bench)
    [file] = tmp_path.rglob(f"{kind}.parquet")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(StateError, match="a file of the plan is damaged"):
        bench.rows(plan)


def test_a_change_set_with_fewer_rows_than_the_plan_is_damaged(bench: Bench, tmp_path: Path) -> None:
    plan = begun(bench)
    added, changed = (next(tmp_path.rglob(f"{kind}.parquet")) for kind in ("added", "changed"))
    shutil.copy(added, changed)
    with pytest.raises(StateError, match="a file of the plan is damaged"):
        bench.rows(plan)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "of JSON"])
def test_the_numbers_of_a_damaged_lease_do_not_begin_again(bench: Bench, tmp_path: Path, damage: str) -> None:
    now = datetime.now(UTC)
    bench.store.acquire("s", "me", now=now, seconds=60)
    [file] = (tmp_path / "state/syncs/s/lease").iterdir()
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(StateError, match="let no run of the sync be at work"):
        bench.store.acquire("s", "other", now=now, seconds=60)


def changed_json(data: bytes, chance: random.Random) -> bytes:
    """Return JSON in which a value is another; the data if it is not JSON."""
    try:
        values = json.loads(data.splitlines()[-1])
    except (ValueError, IndexError):
        return data
    level: Any = values
    while isinstance(level, dict | list) and level:
        key = chance.choice(list(level)) if isinstance(level, dict) else chance.randrange(len(level))
        if not isinstance(level[key], dict | list) or not level[key] or chance.random() < 0.3:
            level[key] = chance.choice([None, "x", -1, 10**30, [], {}, [[1]], True, 1.5, "\ud800", {"a": [None]}])
            break
        level = level[key]
    return json.dumps(values).encode()


def damaged(data: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(list(DAMAGES.values()))(data)
    if kind == 1:
        return changed_json(data, chance)
    content = bytearray(data)
    for _ in range(chance.choice([1, 1, 4, 50])):
        if content:
            content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_documents_raise_typed_errors_only(bench: Bench, tmp_path: Path, count: int) -> None:
    chance = random.Random(count)
    plan = begun(bench)
    bench.store.acquire("s", "me", now=bench.now, seconds=60)
    readers: list[Callable[[], object]] = [
        lambda: bench.store.unfinished("s"),
        lambda: bench.store.load_checkpoint(plan),
        lambda: bench.store.checkpoints(plan),
        lambda: bench.store.last_try(plan),
        lambda: bench.store.acquire("s", "me", now=bench.now, seconds=60),
    ]
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    documents = [file for file, data in files.items() if "_delta_log" not in file.parts and _is_json(data)]
    assert {file.name.partition("-")[0] for file in documents} >= {"plan.json", "checkpoint"}
    lease = tmp_path / "state/syncs/s/lease"
    refused = 0
    for _ in range(count):
        file = chance.choice(documents)
        file.write_bytes(damaged(files[file], chance))
        for read in readers:
            try:
                read()
            except ReverseEtlError as error:
                assert error.todo, file  # noqa: PT017 - any other exception fails the test
                refused += 1
        file.write_bytes(files[file])
        # Each renewal of the lease is a file.
        for path in lease.iterdir():
            if path not in files:
                path.unlink()
    assert refused > count / 3


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


#: Each seed damages every file of the state once.
SEEDS = [pytest.param(seed, marks=pytest.mark.long if seed < 1 else pytest.mark.slow) for seed in range(20)]


@pytest.mark.parametrize("seed", SEEDS)
def test_damage_anywhere_raises_typed_errors_only(bench: Bench, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    plan = begun(bench)
    bench.store.acquire("s", "me", now=bench.now, seconds=60)
    state = tmp_path / "state"
    files = sorted(path for path in state.rglob("*") if path.is_file())
    assert len(files) > 12
    good = tmp_path / "good"
    shutil.copytree(state, good)
    found = 0
    for file in files:
        shutil.rmtree(state)
        shutil.copytree(good, state)
        file.write_bytes(damaged(file.read_bytes(), chance))
        steps: list[Callable[[], object]] = [
            lambda: bench.store.unfinished("s"),
            lambda: bench.store.checkpoints(plan),
            lambda: bench.rows(plan),
            lambda: bench.store.acquire("s", "me", now=bench.now, seconds=60),
            lambda: bench.store.last_try(plan),
            lambda: bench.commit(plan),
            bench.plan,
            lambda: bench.store.last_report("s", "run1"),
        ]
        for step in steps:
            try:
                step()
            except ReverseEtlError as error:
                assert error.todo, file  # noqa: PT017 - any other exception fails the test
                found += 1
    assert found > 3
