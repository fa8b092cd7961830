"""Whatever an API does, no row counts as accepted that it does not hold, and no row is written twice unreported."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, currently_in_test_context, example, given, note, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import ReverseEtlError, SpecError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Outcome
from tests.property import examples
from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, Fault, in_order
from tests.servers.habits import APIS, SHORTER, Api, Habit, habits
from tests.servers.loads import Loads
from tests.servers.messages import Reply
from tests.servers.rows_api import RowsApi
from tests.servers.shapes import each_by_id, failures_by_id, failures_by_kind, status_only

ROWS = [(f"row{number}", f"name {number}") for number in range(1, 7)]


@dataclass(frozen=True)
class Scene:
    """A sync, an API and its behaviour.

    :param single: one row in a request.
    :param repeatable: the API has the same result when a request is repeated.
    :param keys: the API recognises a repeated request by a key, and the sync sends one.
    :param habits: what happens to the requests of the first run, in their order; later ones are carried out.
    """

    api: Api
    mode: str = "upsert"
    single: bool = False
    method: str = "POST"
    rows: int = 2
    batch_size: int = 2
    concurrency: int = 1
    on_unknown: str = "fail"
    bad: frozenset[str] = frozenset()
    repeatable: bool = True
    keys: bool = False
    habits: Sequence[Habit] = ()

    @property
    def destination(self) -> dict[str, Any]:
        path = "/rows/{{ operation }}"
        endpoint: dict[str, Any] = {"path": path, "records": "records"}
        if self.single:
            endpoint = {"path": path + "/{{ row.id }}", "rows": "single"}
        idempotent = ("upsert", "update", "delete") if self.repeatable else ()
        header = {"idempotency_header": "Idempotency-Key"} if self.keys else {}
        return {
            "match_on": "id",
            "method": self.method,
            "operations": {"delete": {"body": "json"}},
            "idempotent": idempotent,
            **endpoint,
            **header,
            **self.api.options,
        }

    @property
    def harmful(self) -> set[Operation]:
        """Operations that must not happen twice."""
        if self.keys:
            return set()
        return {Operation.INSERT} if self.repeatable else {Operation.INSERT, Operation.UPSERT, Operation.UPDATE}


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    api = draw(st.sampled_from(APIS))
    mode = draw(st.sampled_from(("upsert", "insert", "update", "mirror", "append")))
    on_unknown = draw(st.sampled_from(("fail", "resend")))
    possible = habits(api)
    return Scene(
        api,
        mode,
        single=draw(st.booleans()),
        method=draw(st.sampled_from(("POST", "PUT"))),
        rows=draw(st.integers(1, len(ROWS))),
        batch_size=draw(st.integers(1, 4)),
        concurrency=draw(st.integers(1, 3)),
        on_unknown=on_unknown,
        bad=draw(st.frozensets(st.sampled_from([key for key, _ in ROWS]), max_size=2)),
        # In a mirror the second run changes what the first one wrote.
        repeatable=mode == "mirror" or draw(st.booleans()),
        keys=draw(st.booleans()),
        habits=draw(st.lists(possible, min_size=1, max_size=6)),
    )


def say(text: str) -> None:
    """Print this with an example that fails."""
    if currently_in_test_context():
        note(text)


async def play(scene: Scene) -> None:
    """Run the sync twice, with the scene's faults and without any, and check after each run."""
    for habit in scene.habits:
        say(habit.name)
    server = RowsApi(
        scene.api.shape,
        atomic=scene.api.atomic,
        until_bad=scene.api.until_bad,
        bad=scene.bad,
        clock=QuietClock(),
        idempotency_header="Idempotency-Key" if scene.keys else None,
    )
    others = {
        "mode": scene.mode,
        "rate": {"batch_size": 1 if scene.single else scene.batch_size, "concurrency": scene.concurrency},
        "failure": {"on_unknown": scene.on_unknown, "max_rejected": "100%", "max_given_up": "100%"},
        "guards": {"min_rows": 0, "max_removed": "100%"},
    }
    async with server:
        loads = Loads(server, scene.destination, others=others)
        rows = ROWS[: scene.rows]
        before = set[str]()
        if scene.mode == "mirror":
            await run(loads, rows)
            before = loads.delivered
            rows = [(key, f"{name}, changed") for key, name in rows[len(rows) // 2 :]]
        elif scene.mode == "update":
            for key, _ in rows[1:]:
                server.records.write(Operation.UPSERT, key, {"id": key, "name": "before"})
        server.fault = in_order([habit.fault for habit in scene.habits])
        await run(loads, rows)
        check(scene, loads, rows, before)
        server.fault = in_order(())
        # Rows of an append go again in every run: only what the first one left is sent.
        finished = await run(loads, rows if scene.mode != "append" else [])
        check(scene, loads, rows, before)
        if finished and scene.mode in ("upsert", "mirror") and scene.repeatable:
            expected = {key: name for key, name in rows if key not in scene.bad}
            held = {key: record["name"] for key, record in server.records.held.items() if key not in scene.bad}
            assert held == expected, "after a run without faults the API holds the model"


async def run(loads: Loads, rows: Sequence[tuple[str, str]]) -> bool:
    """Run the sync; returns False if it ended with one of our errors, but for an error of the scene itself."""
    try:
        report = await loads.run(rows, retries=1)
    except SpecError:
        raise
    except ReverseEtlError as error:
        say(f"run {loads.runs}: {error.report and error.report.to_json()} {type(error).__name__}: {error.what}")
        return False
    say(f"run {loads.runs}: {report.to_json()}")
    return True


def check(scene: Scene, loads: Loads, rows: Sequence[tuple[str, str]], before: set[str]) -> None:
    """Compare what the sync says with what the API holds.

    :param before: rows that were delivered before the faults began.
    """
    records = loads.server.records
    reports = loads.store.history("rows")
    delivered = loads.delivered
    model = {key for key, _ in rows}
    assert delivered & model <= set(records.held), "a row is accepted that the API does not hold"
    if scene.mode == "append":
        accepted = sum(report.accepted for report in reports)
        assert accepted <= len(records.held), "more rows are reported as accepted than the API holds"
    deleted = before - loads.store.snapshot("rows")
    assert not deleted & set(records.held), "a row counts as deleted that the API holds"
    unknown = sum(report.unknown for report in reports)
    # Rows of a plan that is still open are reported later.
    for plan in loads.store.unfinished("rows"):
        for part in loads.store.checkpoints(plan).values():
            unknown += len(part.answer_lost) + len([1 for found, _ in part.failed.values() if found is Outcome.UNKNOWN])
    twice = set[str]().union(*map(records.twice, scene.harmful))
    allowed = unknown if scene.on_unknown == "resend" else 0
    assert len(twice) <= allowed, f"rows are written twice: {sorted(twice)}, reported as unknown: {unknown}"


READ = [api for api in APIS if "key" in api.options.get("results", {})]
BY_ID = next(api for api in READ if api.shape is failures_by_id)
EACH_BY_ID = next(api for api in READ if api.shape is each_by_id)
ANSWER_LOST = Habit("an answer that is lost", LOST_ANSWER)
REFUSED = Habit("a refusal", Fault.instead(Reply(400)))
FAILED_LATE = Habit("an error after all writes", Fault.instead(Reply(500), writes=None))
FIRST_ENTRY_MISSING = Habit("an entry is missing", Fault(reply=SHORTER["entries missing"]))

RANDOM = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate, Phase.shrink)
)


@pytest.mark.long
@settings(RANDOM, max_examples=examples(30), derandomize=True)
@given(scene=scenes())
@example(Scene(BY_ID, "insert", habits=[ANSWER_LOST]))
@example(Scene(BY_ID, "insert", single=True, method="PUT", habits=[ANSWER_LOST]))
@example(Scene(BY_ID, "insert", habits=[FAILED_LATE]))
@example(Scene(EACH_BY_ID, bad=frozenset({"row1"}), habits=[FIRST_ENTRY_MISSING]))
@example(Scene(Api(failures_by_kind, {}), bad=frozenset({"row1"})))
@example(Scene(BY_ID, mode="insert", rows=1, on_unknown="resend", habits=(ANSWER_LOST, REFUSED)))
@example(Scene(Api(status_only, {}, until_bad=True), mode="insert", bad=frozenset({"row2"})))
def test_the_state_is_true_whatever_an_api_does(scene: Scene) -> None:
    asyncio.run(play(scene))


@pytest.mark.slow
@settings(RANDOM, max_examples=2000)
@given(scene=scenes())
def test_the_state_is_true_whatever_an_api_does_at_length(scene: Scene) -> None:
    asyncio.run(play(scene))
