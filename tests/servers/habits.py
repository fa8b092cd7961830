"""A table of what APIs, and the proxies in front of them, do to requests and replies; random faults from it.

Every fault is honest: a reply that means success comes only if the rows were written, or if its body says which were
not. No client can help what lies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from hypothesis import strategies as st

from tests.servers.faults import Cut, Fault
from tests.servers.messages import Reply
from tests.servers.shapes import (
    Results,
    always_200,
    each_by_id,
    each_in_order,
    failures_by_id,
    failures_by_index,
    json_api,
    multi_status,
    status_only,
    verdict,
    words_only,
)

# -- ways to answer, and the options that read them ------------------------------------------------------------------


@dataclass(frozen=True)
class Api:
    """A way in which an API says what became of the rows.

    :param options: options of type ``http`` that read it.
    :param refusals: replies with a status of success that say that nothing was written.
    :param atomic: see ``RowsApi``; likewise ``until_bad``.
    :param pages: a proxy's page can be known from an answer.
    """

    shape: Callable[[Results], Reply]
    options: Mapping[str, Any]
    refusals: tuple[Reply, ...] = ()
    atomic: bool = False
    until_bad: bool = False
    pages: bool = True

    def __str__(self) -> str:
        return f"{self.shape.__name__} read with {json.dumps(self.options)}"


NOT_OK = Reply.of({"ok": False, "error": "internal"})
NO_SUCCESS = Reply.of({"success": False, "errors": [{"code": "606", "message": "too many calls"}]})
BY_ID: dict[str, Any] = {"list": "errors", "rows": "failed", "key": {"id": "id"}}
FAILURES = (NOT_OK, NO_SUCCESS)

APIS = (
    Api(failures_by_id, {"results": BY_ID}, FAILURES),
    Api(failures_by_id, {}, FAILURES),
    Api(multi_status, {"results": {**BY_ID, "key": {"context.ids": "id"}}}, FAILURES),
    Api(multi_status, {}, FAILURES),
    Api(failures_by_index, {"results": {"list": "errors", "rows": "failed", "index": "batch_index"}}, FAILURES),
    Api(failures_by_index, {}, FAILURES),
    Api(
        json_api,
        {"results": {"list": "errors", "rows": "failed", "index": "source.pointer"}},
        FAILURES,
        atomic=True,
    ),
    Api(json_api, {"atomic": True}, FAILURES, atomic=True),
    Api(each_by_id, {"results": {"list": "results", "key": {"id": "id"}, "ok": {"ok": True}}}, FAILURES),
    Api(each_by_id, {}, FAILURES),
    Api(each_in_order, {"results": {"ok": {"success": True}, "code": "errors.0.statusCode"}}, FAILURES),
    Api(each_in_order, {}, FAILURES),
    Api(
        always_200,
        {"results": {"list": "result", "ok": {"status": ["created", "updated"]}, "code": "reasons.0.code"}},
        FAILURES,
    ),
    Api(verdict, {"success": {"path": "ok", "value": True}}, (NOT_OK,), atomic=True),
    Api(verdict, {}, FAILURES, atomic=True),
    # With `reply: text` the status alone decides, so a page with status 200 is a success by the author's word.
    Api(words_only, {"reply": "text"}, atomic=True, pages=False),
    Api(words_only, {}, FAILURES, atomic=True),
    Api(status_only, {"atomic": True}, FAILURES, atomic=True),
    # It writes the rows before the first bad one, and does not say so.
    Api(status_only, {}, FAILURES, until_bad=True),
)

# -- what else may come ----------------------------------------------------------------------------------------------

#: Statuses with which nothing is written.
REFUSED = (
    *(301, 302, 307, 308),
    *(400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 415, 417, 421, 422, 423, 424, 425, 426),
    *(428, 429, 431, 451, 477, 501, 503, 505),
)
#: Statuses with which everything, something or nothing is written.
UNCERTAIN = (500, 502, 504, 507, 508, 520, 521, 522, 524, 599)

_MESSAGE = "this is not valid"
_ERROR = {"code": "INVALID", "message": _MESSAGE}
#: Bodies of errors.
WORDS = (
    Reply(),
    *map(
        Reply.of,
        (
            _ERROR,
            {"error": _MESSAGE},
            {"error": _ERROR},
            {"errors": [_ERROR]},
            {"errors": [_MESSAGE]},
            {"errors": {"name": ["is not valid"]}},
            [{"errorCode": "INVALID_FIELD", "message": _MESSAGE}],
            {"errors": []},
            {"data": None},
            [],
            None,
            17,
        ),
    ),
    Reply.of({"title": "Bad", "detail": _MESSAGE}, content_type="application/problem+json"),
    Reply.of(
        {"errors": [{"status": "400", "code": "invalid", "detail": _MESSAGE, "source": {"pointer": "/data"}}]},
        content_type="application/vnd.api+json",
    ),
    Reply.text("<Fault><faultstring>no</faultstring></Fault>", content_type="text/xml"),
    Reply.text(_MESSAGE),
    Reply.text("<html><body>Sorry</body></html>", content_type="text/html"),
    Reply.text('{"errors": [{"code"', content_type="application/json"),
    Reply(body=b"\xff\xfe\x00", headers={"Content-Type": "application/octet-stream"}),
)
PAGE = Reply.text("<html><body>We are down for maintenance</body></html>", content_type="text/html")

#: Headers next to a refusal: useful, wrong, and none.
HINTS: tuple[dict[str, str], ...] = (
    {},
    {"Retry-After": "1"},
    {"Retry-After": "0"},
    {"Retry-After": "soon"},
    {"Retry-After": "-5"},
    {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"},
    {"Retry-After": formatdate(1767225630, usegmt=True), "Date": formatdate(1767225600, usegmt=True)},
    {"Retry-After": "100000"},
    {"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225610"},
    {"RateLimit": '"default";r=0;t=7'},
    {"Location": "/elsewhere"},
)


def _entries(change: Callable[[list[Any]], Any]) -> Callable[[Reply], Reply]:
    """Make a change of all lists in a JSON reply."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return change(value)
        return {name: changed(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    def apply(reply: Reply) -> Reply:
        try:
            value = reply.json()
        except ValueError:
            return reply
        return reply if value is None else Reply(reply.status, json.dumps(changed(value)).encode(), reply.headers)

    return apply


def _shouted(value: Any, name: str = "") -> Any:
    """Write ids in capitals."""
    if isinstance(value, list):
        return [_shouted(inner, name) for inner in value]
    if isinstance(value, dict):
        return {inner: _shouted(value[inner], inner) for inner in value}
    return value.upper() if name in ("id", "ids") else value


def _nameless(value: Any) -> Any:
    """Leave out whatever says which row an entry is about."""
    if isinstance(value, list):
        return [_nameless(inner) for inner in value]
    if isinstance(value, dict):
        names = value.keys() - {"id", "batch_index", "source", "context"}
        return {name: _nameless(value[name]) for name in sorted(names)}
    return value


def _renamed(reply: Reply) -> Reply:
    """Give the lists other names."""
    for name in (b'"errors"', b'"results"', b'"result"'):
        reply = Reply(reply.status, reply.body.replace(name, b'"' + name[1:-1].title() + b's"'), reply.headers)
    return reply


#: Harmless or awkward forms of the API's own answer, which still says of every row that failed that some row failed.
FORMS: dict[str, Callable[[Reply], Reply]] = {
    "entries twice": _entries(lambda entries: entries * 2),
    "ids in capitals": _entries(_shouted),
    "entries without a row": _entries(_nameless),
    "a byte order mark": lambda reply: Reply(reply.status, b"\xef\xbb\xbf" + reply.body, reply.headers),
    "another 2xx": lambda reply: Reply(202 if reply.status == 200 else reply.status, reply.body, reply.headers),
    "multi-status": lambda reply: Reply(207 if reply.status == 200 else reply.status, reply.body, reply.headers),
    "a media type that is missing": lambda reply: Reply(reply.status, reply.body),
}
#: Forms that say nothing wrong if an entry names its row.
ELSEWHERE: dict[str, Callable[[Reply], Reply]] = {
    "entries in another order": _entries(lambda entries: entries[::-1]),
    "another row's entries": _entries(lambda entries: entries[:1] * len(entries)),
}
#: Forms that only a sync with ``results`` can tell from success.
MISNAMED: dict[str, Callable[[Reply], Reply]] = {"lists of another name": _renamed}
#: Forms that leave rows out, of a list that has an entry for every row.
SHORTER: dict[str, Callable[[Reply], Reply]] = {
    "entries missing": _entries(lambda entries: entries[1:]),
    "no entries": _entries(lambda _: []),
    "null instead of entries": _entries(lambda _: None),
}


@dataclass(frozen=True)
class Habit:
    """A fault with its name, for the example that a failed test prints."""

    name: str
    fault: Fault | None = field(repr=False)


def habits(api: Api) -> st.SearchStrategy[Habit]:
    """Return the strategy of what may happen to one request to this API."""
    written = st.sampled_from((None, 0, 1, 2))
    words = st.sampled_from(WORDS)
    refused = st.builds(_refused, st.sampled_from(REFUSED), words, st.sampled_from(HINTS), st.just(0))
    uncertain = st.builds(_refused, st.sampled_from(UNCERTAIN), words, st.just({}), written)
    cuts = st.builds(_cut, st.sampled_from([cut for cut in Cut if cut is not Cut.SILENCE]), written)
    formed = st.builds(_formed, st.sampled_from(_forms(api)))
    found = [st.just(Habit("carried out", None)), uncertain, refused, cuts, formed]
    if api.pages:
        found.append(st.builds(_page, written))
    if api.refusals:
        found.append(st.sampled_from([Habit(f"200 {reply.body!r}", Fault.instead(reply)) for reply in api.refusals]))
    return st.one_of(found)


def _forms(api: Api) -> list[tuple[str, Callable[[Reply], Reply]]]:
    results = api.options.get("results")
    if results is None:
        return list(FORMS.items())
    found = FORMS | MISNAMED
    if results.get("rows") != "failed":
        found |= SHORTER | (ELSEWHERE if "key" in results else {})
    return list(found.items())


def _refused(status: int, words: Reply, hints: Mapping[str, str], writes: int | None) -> Habit:
    reply = Reply(status, words.body, {**words.headers, **hints})
    return Habit(f"{status} {words.body!r} {hints} after {_all(writes)} writes", Fault.instead(reply, writes=writes))


def _cut(cut: Cut, writes: int | None) -> Habit:
    return Habit(f"cut: {cut} after {_all(writes)} writes", Fault(writes, cut=cut))


def _page(writes: int | None) -> Habit:
    return Habit(f"a page after {_all(writes)} writes", Fault.instead(PAGE, writes=writes))


def _formed(form: tuple[str, Callable[[Reply], Reply]]) -> Habit:
    name, change = form
    return Habit(name, Fault(reply=change))


def _all(writes: int | None) -> str:
    return "all" if writes is None else str(writes)
