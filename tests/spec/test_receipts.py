"""Outcomes and progress: the counts, and what is stored and read again."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Reason, Receipt, Receipts, reason_text
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.progress import Checkpoint


def checkpoint() -> Checkpoint:
    made = Checkpoint(announced=9, requests=3, seconds=1.5)
    made.settled.add(1, 6)
    made.settled.add(8, 9)
    made.fail(2, Receipt(Outcome.REJECTED, "INVALID_EMAIL", "not an address"))
    made.fail(3, Receipt(Outcome.REJECTED, "INVALID_EMAIL", "not an address"))
    made.fail(4, Receipt(Outcome.SKIPPED, "NOT_FOUND", "no such contact"))
    made.fail(5, Receipt(Outcome.UNKNOWN, "answer_lost", "sent"))
    made.lose([6], "accept")
    made.lose([7], "resend")
    return made


def test_a_checkpoint_counts_each_settled_row_once() -> None:
    counts = {outcome: checkpoint().count(outcome) for outcome in Outcome}
    assert counts == {
        Outcome.ACCEPTED: 3,  # 1, 8, 9
        Outcome.REJECTED: 2,
        Outcome.SKIPPED: 1,
        Outcome.UNKNOWN: 2,  # 5, and 6 that may be a duplicate; 7 is not settled yet
        Outcome.RETRYABLE: 0,
        Outcome.CONFLICT: 0,  # put aside, until it has another outcome
    }
    assert sum(counts.values()) == len(checkpoint().settled)


def test_a_checkpoint_survives_json() -> None:
    again = Checkpoint.from_json(checkpoint().to_json())
    assert again.to_json() == checkpoint().to_json()
    again.fail(9, Receipt(Outcome.REJECTED, "INVALID_EMAIL", "not an address"))
    assert len(again.reasons) == 3, "a reason that is known already is not stored again"


def test_a_copy_is_left_alone_by_later_changes() -> None:
    original = checkpoint()
    copy = original.copy()
    original.fail(7, Receipt(Outcome.REJECTED, "late", ""))
    assert 7 not in copy.settled
    assert 7 not in copy.failed


def test_errors_are_grouped_by_code_most_frequent_first_without_skipped_rows() -> None:
    assert checkpoint().counted_reasons() == [
        {"code": "INVALID_EMAIL", "count": 2, "message": "not an address", "host": "", "status": None},
        {"code": "answer_lost", "count": 1, "message": "sent", "host": "", "status": None},
    ]


def test_a_report_has_20_reasons_and_the_last_one_counts_the_others() -> None:
    made = Checkpoint()
    for seq in range(1, 3001):
        made.fail(seq, Receipt(Outcome.REJECTED, f"code {seq}"))
    made.leave(Reason("429", "too fast", "api.example.com", 429), 10)
    reasons = made.counted_reasons()
    assert len(reasons) == 20
    assert reason_text(reasons[0]) == "429 (10 rows, api.example.com): too fast"
    assert (reasons[-1]["code"], reasons[-1]["count"], reasons[-1]["message"]) == (
        "others",
        2982,
        "2,982 other reasons",
    )


def test_a_checkpoint_stored_before_reasons_had_hosts_is_read() -> None:
    stored = {**checkpoint().to_json(), "reasons": [["INVALID_EMAIL", "no"], ["NOT_FOUND", ""], ["lost", "sent"]]}
    del stored["left"]
    assert Checkpoint.from_json(stored).counted_reasons()[0]["count"] == 2


def test_receipts_are_by_key() -> None:
    receipts = Receipts(exceptions={"b": Receipt(Outcome.REJECTED, "X")})
    assert receipts.of("a").outcome is Outcome.ACCEPTED
    assert receipts.of("b").outcome is Outcome.REJECTED


def test_the_idempotency_key_is_the_same_for_the_same_rows() -> None:
    batch = Batch(Operation.UPSERT, range(5, 8), ["a", "b", "c"], [{}, {}, {}], "run", "plan")
    assert batch.only([0, 1, 2]).idempotency_key(b"x") == batch.idempotency_key(b"x")
    six = Batch(Operation.UPSERT, range(1, 7), list("abcdef"), [{}] * 6, "run", "plan")
    keys = {six.only(rows).idempotency_key(b"x") for rows in itertools.combinations(range(6), 4)}
    assert len(keys) == 15, "other rows, other key, even with the same ends and count"


def test_the_idempotency_key_differs_for_other_values_and_for_a_later_plan_of_the_same_run() -> None:
    """A cleared task plans again under its run id, and its new rows reuse the numbers."""
    batch = Batch(Operation.UPSERT, [1], ["a"], [{}], "run", "plan 1")
    later = replace(batch, plan_id="plan 2")
    keys = {batch.idempotency_key(b"A"), batch.idempotency_key(b"B"), later.idempotency_key(b"A")}
    assert len(keys) == 3


def test_partitions_add_up_to_the_whole() -> None:
    first = checkpoint()
    second = Checkpoint(announced=20, requests=2, seconds=4.0)
    second.settled.add(11, 20)
    second.fail(12, Receipt(Outcome.REJECTED, "TOO_LONG", "name"))
    whole = Checkpoint.merged([second, first])
    assert len(whole.settled) == len(first.settled) + 10
    assert {o: whole.count(o) for o in Outcome} == {o: first.count(o) + second.count(o) for o in Outcome}
    assert whole.reasons[whole.failed[12][1]] == Reason("TOO_LONG", "name")
    assert whole.in_doubt() == RangeSet(range(7, 8), range(10, 11))
    assert (whole.requests, whole.seconds) == (5, 4.0)
    assert second.settled.end_of(11) == 20, "the partition that starts at 11 continues from here"
    assert Checkpoint().settled.end_of(11) == 10


def test_rows_without_an_answer_are_those_of_the_load_that_may_have_been_sent() -> None:
    made = Checkpoint()
    assert not made.in_doubt()
    made.resume(after=10)
    made.announce(20)
    assert made.in_doubt() == RangeSet(range(11, 21))
    made.settle(range(13, 16))
    assert made.in_doubt() == RangeSet(range(11, 13), range(16, 21))
    made.settle([11, 12, 20])
    assert made.in_doubt() == RangeSet(range(16, 20))
    made.settle(range(16, 20))
    assert not made.in_doubt()


def test_a_load_that_ends_has_only_rows_without_an_answer_in_doubt() -> None:
    made = Checkpoint()
    made.resume(after=0)
    made.announce(20)
    made.doubt([5, 7])
    made.settle([5])
    made.end(seconds=1.5)
    made.resume(after=0)
    made.announce(10)
    made.end(seconds=2.0)
    assert (made.in_doubt(), made.seconds) == (RangeSet(range(7, 8)), 3.5)


def test_a_load_that_resumes_a_killed_one_has_what_that_announced_in_doubt_until_it_is_settled() -> None:
    made = Checkpoint()
    made.resume(after=0)
    made.announce(4)
    made.resume(after=0)
    made.settle([1])
    made.end(seconds=0.0)
    assert made.in_doubt() == RangeSet(range(2, 5))


@pytest.mark.parametrize(
    ("on_unknown", "settled", "unknown", "in_doubt"),
    [("fail", 4, 2, [1, 6]), ("accept", 4, 2, [1, 6]), ("resend", 2, 0, [1, 4, 5, 6])],
)
def test_a_commit_decides_on_rows_in_doubt_that_are_not_safe_to_send_twice(
    on_unknown: str, settled: int, unknown: int, in_doubt: list[int]
) -> None:
    made = Checkpoint(announced=6)
    made.settle([2, 3])
    made.close(on_unknown, RangeSet(range(3, 6)))
    assert made.closed
    assert (len(made.settled), made.count(Outcome.UNKNOWN), made.count(Outcome.ACCEPTED)) == (settled, unknown, 2)
    assert [seq for rows in made.in_doubt() for seq in rows] == in_doubt
    assert made.answer_lost == (set() if on_unknown == "fail" else {4, 5})


def test_rows_without_an_answer_are_those_in_doubt_from_before_as_well() -> None:
    made = Checkpoint(announced=6, after=4, unanswered=RangeSet(range(2, 4), range(3, 5), range(9, 10)))
    assert made.in_doubt() == RangeSet(range(2, 7), range(9, 10))
    made.settle(range(3, 6))
    assert made.in_doubt() == RangeSet(range(2, 3), range(6, 7), range(9, 10))
    assert Checkpoint.from_json(made.to_json()).in_doubt() == made.in_doubt()


def test_a_row_whose_answer_was_lost_stays_unknown_when_another_partition_sees_it_rejected() -> None:
    first = Checkpoint(unanswered=RangeSet(range(1, 3)), answer_lost={1, 2})
    second = Checkpoint()
    second.settled.add(1, 2)
    second.fail(1, Receipt(Outcome.REJECTED))
    whole = Checkpoint.merged([first, second])
    assert (whole.count(Outcome.REJECTED), whole.count(Outcome.UNKNOWN), whole.count(Outcome.ACCEPTED)) == (0, 2, 0)
    assert not whole.in_doubt()


def test_a_report_stored_before_reasons_had_their_name_is_read() -> None:
    counts = dict.fromkeys(("accepted", "rejected", "retryable", "unknown", "skipped", "requests"), 0)
    stored = {"run_id": "r", "planned": {"added": 1}, **counts, "seconds": 0.5, "errors": [{"code": "X", "count": 1}]}
    report = RunReport.from_json(stored)
    assert report.reasons == ({"code": "X", "count": 1},)
    assert RunReport.from_json(report.to_json()) == report


def test_a_checkpoint_stored_before_it_had_the_operations_that_were_only_taken_is_read() -> None:
    stored = Checkpoint(requests=3).to_json()
    del stored["taken"]
    assert Checkpoint.from_json(stored) == Checkpoint(requests=3)


def test_the_operations_that_were_only_taken_outlive_the_process_and_the_partition() -> None:
    part = Checkpoint()
    part.take(Operation.UPSERT)
    assert Checkpoint.merged([Checkpoint(), part.copy()]).taken == {Operation.UPSERT}
