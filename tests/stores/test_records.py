"""Random histories of records: the promises of every mode, and one plan in every store.

Each history has two to four people whose rows get other keys, e-mails and values, share them, or lose them; rows are
rejected, answers are lost, and processes die. Many histories are part of one model, as they do not affect each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import AttentionError, RunConflictError, SpecError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.context import RunOptions
from airflow_reverse_etl.sync.ports import StateStore, Support
from tests.stores.history_group import LENIENT, MAPPINGS, STORES, Group, opened_store

MODES = ("upsert", "insert", "update", "mirror", "delete", "append")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    with opened_store(request.param, request, tmp_path) as opened:
        yield opened


#: Mode and form of destination: ``http`` ignores case, ``table`` does not, and takes removed rows first.
GROUPS = (
    ("upsert", "http"),
    ("insert", "table"),
    ("update", "http"),
    ("mirror", "http"),
    ("mirror", "table"),
    ("delete", "http"),
    ("append", "table"),
)
SEEDS = range(8)


@pytest.mark.parametrize(("mode", "form"), GROUPS)
async def test_two_runs_without_faults_keep_the_promises_of_the_mode(store: StateStore, mode: str, form: str) -> None:
    await keep_promises(store, f"{mode} {form}", histories=22, mode=mode, form=form, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["http", "table"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
async def test_they_do_in_long_histories(store: StateStore, seed: int, mode: str, form: str) -> None:
    await keep_promises(store, f"{mode} {form} {seed}", histories=1 + 3 * seed, mode=mode, form=form, rounds=3)


async def keep_promises(store: StateStore, seed: str, *, histories: int, mode: str, form: str, rounds: int) -> None:
    """Run a group of histories, and check the destination several times."""
    group = Group(store, seed, histories=histories, mode=mode, form=form)
    for _ in range(rounds):
        for _ in range(group.rng.randint(2, 4)):
            group.change_model(dirty=group.rng.random() < 0.6)
            await group.try_to_run()
        group.change_model(dirty=group.rng.random() < 0.3)
        await group.settle()
        group.check()


# -- syncs that change -----------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Any, ...]] = {
    "mode": MODES,
    "track": ("rows", "rows", "none", {"cursor": "at"}, {"fields": True}),
    "mapping": MAPPINGS,
    "on_mapping_change": ("keep", "resync"),
    "failure": tuple({**LENIENT, "on_unknown": policy} for policy in ("resend", "accept", "fail")),
}
OPTIONS = (*[RunOptions()] * 4, RunOptions(reset=True), RunOptions(full_resync=True))


@pytest.mark.parametrize(("seed", "form"), [(1, "http"), (2, "table")])
async def test_stores_agree_on_a_sync_that_changes(store: StateStore, seed: int, form: str) -> None:
    await change_from_run_to_run(store, f"changing {form} {seed}", histories=12, form=form, runs=6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["http", "table"])
@pytest.mark.parametrize("seed", range(25))
async def test_stores_agree_on_many(store: StateStore, seed: int, form: str) -> None:
    await change_from_run_to_run(store, f"changing {form} {seed}", histories=6, form=form, runs=10)


@pytest.mark.parametrize("form", ["http", "table"])
async def test_stores_agree_on_the_state_of_an_earlier_version(store: StateStore, form: str) -> None:
    seed = f"earlier {form}"
    await change_from_run_to_run(store, seed, histories=12, form=form, runs=3, earlier=True)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["http", "table"])
@pytest.mark.parametrize("seed", range(12))
async def test_stores_agree_on_many_states_of_an_earlier_version(store: StateStore, seed: int, form: str) -> None:
    seed_text = f"earlier {form} {seed}"
    await change_from_run_to_run(store, seed_text, histories=6, form=form, runs=4, earlier=True)


async def change_from_run_to_run(
    store: StateStore, seed: str, *, histories: int, form: str, runs: int, earlier: bool = False
) -> None:
    """Change the model and the sync from run to run.

    :param earlier: the first version of the package has made the state.
    """
    group = Group(store, seed, histories=histories, mode="upsert", form=form)
    rng = group.rng
    group.refusals = (AttentionError, RunConflictError)
    idempotent = frozenset(rng.sample(sorted(Operation), rng.randint(0, 4)))
    promises = {
        operation: Support(idempotent=operation in idempotent, answers="row", max_rows=3) for operation in Operation
    }
    group.remote.capabilities = replace(group.remote.capabilities, operations=promises)
    if earlier:
        await run_as_earlier_version(group)
    for _ in range(runs):
        if rng.random() < 0.5:
            change_sync(group)
        group.change_model(dirty=rng.random() < 0.6)
        options = rng.choice(OPTIONS) if group.sync.tracked else RunOptions()
        await group.try_to_run(options)
        group.check_foreign()


async def run_as_earlier_version(group: Group) -> None:
    """Run a sync whose records are known by primary key. Its rows keep their keys and e-mails."""
    mode = group.rng.choice(("upsert", "insert", "mirror"))
    group.values |= {"mode": mode, "mapping": MAPPINGS[1], "destination": {"type": "fake"}}
    group.store.earlier = True
    group.change_model(dirty=False)
    await group.try_to_run()
    await group.settle()
    group.store.earlier = False
    del group.values["destination"]


def change_sync(group: Group) -> None:
    """Change one part of the sync, if the whole is valid then."""
    part = group.rng.choice(list(CHANGES))
    before = group.values
    group.values = {**before, part: group.rng.choice(CHANGES[part])}
    try:
        assert group.sync
    except SpecError:
        group.values = before
