"""Shapes in which APIs say what became of each row of a request: functions of the rows' results that make a reply."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.servers.messages import Reply


class RowResult(NamedTuple):
    """Result of one row.

    :param position: place in the request, counted from 0.
    :param code: why it was not written; empty if it was.
    """

    position: int
    id: str
    code: str = ""

    @property
    def words(self) -> dict[str, str]:
        return {"code": self.code, "message": "this row is not valid"}


Results = Sequence[RowResult]


def failed(results: Results) -> list[RowResult]:
    """Return the rows that were not written."""
    return [row for row in results if row.code]


def failures_by_id(results: Results) -> Reply:
    """``{"written": n, "errors": [{"id", "code", "message"}]}``"""
    errors = [{"id": row.id, **row.words} for row in failed(results)]
    return Reply.of({"written": len(results) - len(errors), "errors": errors})


def multi_status(results: Results) -> Reply:
    """The same with status 207 if some row failed, and the written rows next to it, as HubSpot has it."""
    errors = [{**row.words, "context": {"ids": [row.id]}} for row in failed(results)]
    good = [{"id": row.id} for row in results if not row.code]
    if not errors:
        return Reply.of({"status": "COMPLETE", "results": good})
    return Reply.of({"status": "COMPLETE", "results": good, "numErrors": len(errors), "errors": errors}, 207)


def failures_by_index(results: Results) -> Reply:
    """``{"errors": [{"batch_index", "code", "message"}]}``, 207 if there are any: Customer.io."""
    errors = [{"batch_index": row.position, **row.words} for row in failed(results)]
    return Reply.of({"errors": errors} if errors else {}, 207 if errors else 200)


def json_api(results: Results) -> Reply:
    """JSON:API errors that point at the row, 400: Klaviyo, which then has written nothing."""
    pointers = [f"/data/attributes/profiles/data/{row.position}/attributes/name" for row in failed(results)]
    errors = [{"status": "400", "code": "invalid", "detail": "no", "source": {"pointer": at}} for at in pointers]
    return Reply.of({"errors": errors}, 400, content_type="application/vnd.api+json") if errors else Reply(202)


def each_by_id(results: Results) -> Reply:
    """``{"results": [{"id", "ok", "code"}]}`` for every row."""
    return Reply.of({"results": [{"id": row.id, "ok": not row.code, "code": row.code} for row in results]})


def each_in_order(results: Results) -> Reply:
    """A list with an entry for every row in the request's order: Salesforce Collections."""
    return Reply.of(
        [
            {"success": not row.code, "errors": [{"statusCode": row.code, "message": "no"}] if row.code else []}
            for row in results
        ]
    )


def always_200(results: Results) -> Reply:
    """``{"result": [{"status": "updated"}, {"status": "skipped", "reasons": [{"code", "message"}]}]}``: Marketo."""
    entries: list[dict[str, Any]] = [
        {"status": "skipped", "reasons": [row.words]} if row.code else {"status": "updated"} for row in results
    ]
    return Reply.of({"requestId": "r", "success": True, "result": entries})


def failures_by_kind(results: Results) -> Reply:
    """``{"successCount", "failCount", "failedUpdates": {"invalidUserIds": ["id"]}}``: Iterable, ids in lower case."""
    kinds = defaultdict(list)
    for row in failed(results):
        kinds[f"{row.code.lower()}UserIds"].append(row.id.lower())
    count = len(failed(results))
    return Reply.of({"successCount": len(results) - count, "failCount": count, "failedUpdates": kinds})


def verdict(results: Results) -> Reply:
    """``{"ok": true}``, or one error for all: Slack."""
    bad = failed(results)
    return Reply.of({"ok": False, "error": bad[0].code} if bad else {"ok": True})


def words_only(results: Results) -> Reply:
    """The text ``OK``, or one error for all with status 400: RudderStack."""
    bad = failed(results)
    return Reply.text(f"Invalid row: {bad[0].code}", 400) if bad else Reply.text("OK")


def status_only(results: Results) -> Reply:
    """An empty 200, or one error for all with status 422."""
    bad = failed(results)
    return Reply.of({"error": bad[0].words}, 422) if bad else Reply(200)
