"""Base class of destinations that send rows in requests and read the outcome of each row from the reply.

A named type subclasses :class:`BatchApi`, and describes each operation by an :class:`Endpoint`. ``type: http`` makes
the same values from a sync's options.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, final

from airflow_reverse_etl.destinations.base import Setup
from airflow_reverse_etl.destinations.http import Flow, HttpDestination
from airflow_reverse_etl.destinations.replies import ReplyReader
from airflow_reverse_etl.destinations.request_bodies import BodyFormat, encoder
from airflow_reverse_etl.destinations.results import ErrorPaths, Results, Success
from airflow_reverse_etl.destinations.row_matching import RowMatcher
from airflow_reverse_etl.destinations.templates import BadValueError
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request, value_at
from airflow_reverse_etl.http.status_table import ACTIONS, Action, action_of
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import ACCEPTED, REPLY_NOT_READ, Batch, Outcome, Receipt, Receipts, digest
from airflow_reverse_etl.sync.ports import Capabilities, Support

#: Consequence for a row of which a look-up finds no record: ``insert`` sends it to the endpoint of that operation,
#: ``accept`` counts it as delivered, ``skip`` and ``reject`` report it, ``send`` sends it without an id.
Missing = Literal["insert", "accept", "skip", "reject", "send"]
_MISSING: Mapping[str, Receipt] = {
    "accept": ACCEPTED,
    "skip": Receipt(Outcome.SKIPPED, "not_found", "the destination has no such record"),
    "reject": Receipt(Outcome.REJECTED, "not_found", "the destination has no such record"),
}


class Row(NamedTuple):
    """A row to be sent.

    :param key: primary key as text.
    :param record: the mapped fields; for a delete, the identifiers.
    :param id: the record's id at the destination, if it was looked up or is in the reply; else None.
    :param run_id: id of the run.
    """

    key: str
    record: Mapping[str, Any]
    id: Any = None
    run_id: str = ""


#: Flow of further requests for rows that were written, given the reply.
Then = Callable[[Sequence[Row], Reply], Flow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request for some rows.

    Functions of a row raise :class:`BadValueError` for a row that cannot be sent; its text has no value of the row.

    :param path: percent-encoded path below the base URL, or a function of the row. A request for several rows asks for
        the path of the first one.
    :param path_of_rows: function of the rows of a request that has their values in its path, instead of ``path``.
    :param headers: values, or functions of the row, by name.
    :param rows: ``single``: one item by itself; ``batch``: a list of items.
    :param item: function that makes a row's part of the body; default: its record.
    :param records: dotted field of the body that holds the items; empty if they are the body.
    :param envelope: other fields of the body.
    """

    path: str | Callable[[Row], str]
    path_of_rows: Callable[[Sequence[Row]], str] | None = None
    method: str = "POST"
    headers: Mapping[str, str | Callable[[Row], str]] = field(default_factory=dict)
    rows: Literal["single", "batch"] = "batch"
    item: Callable[[Row], Any] | None = None
    body: BodyFormat = "json"
    records: str = ""
    envelope: Mapping[str, Any] = field(default_factory=dict)


class RecordPlaces(NamedTuple):
    """Places in a reply of the records that it returns.

    :param records: dotted path of the list of records, or of the only one; empty if the reply is the list.
    :param key: path in a record, and field of the row with the same value; empty for the row's primary key. Without
        ``key``, a record belongs to the row at its place, and all records to a single row.
    :param id: path in a record of its id.
    """

    records: str = ""
    key: tuple[str, str] | None = None
    id: str = "id"

    def are_in(self, answer: Any) -> bool:
        """Return whether a reply has the place of the records, which may be empty there."""
        *parents, last = _path(self.records) or ("",)
        level = value_at(answer, parents)
        if not self.records:
            return isinstance(answer, list | Mapping)
        return isinstance(level, Mapping) and last in level

    def ids(self, answer: Any, batch: Batch) -> dict[int, list[Any]]:
        """Return the ids of the records that each row names, by the row's position."""
        entries = value_at(answer, _path(self.records))
        if not isinstance(entries, list):
            entries = [entries] if entries else []
        if self.key is None and len(batch) > 1 and len(entries) != len(batch):
            return {}
        key = (_path(self.key[0]), _path(self.key[1])) if self.key else None
        if key and not key[1]:
            key = (key[0], ("key",))
            batch = replace(batch, records=[{"key": row_key} for row_key in batch.keys])
        matcher = RowMatcher(batch, key=key) if self.key or len(batch) > 1 else None
        found: dict[int, dict[Any, None]] = {}
        for place, entry in enumerate(entries):
            id_ = value_at(entry, _path(self.id))
            for position in matcher.positions(place, entry) if matcher else [0]:
                found.setdefault(position, {})[id_] = None
        return {position: list(ids) for position, ids in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Find(Call):
    """A request that returns the ids of existing records.

    :param missing: consequence for rows without a record.
    :param max_rows: most rows in one request; None for as many as the batch has.
    :param statuses: statuses whose meaning differs from the usual one. ``skip`` means that no record was found, as
        404 and 410 do for a single row; ``accept`` that the reply is read.
    """

    places: RecordPlaces = field(default_factory=RecordPlaces)
    missing: Missing = "skip"
    max_rows: int | None = None
    statuses: Mapping[int, Action] = field(default_factory=dict)

    @property
    def meanings(self) -> Mapping[int, Action]:
        """The statuses whose meaning is known here."""
        none_found = {404: Action.SKIP, 410: Action.SKIP} if self.rows == "single" else {}
        return {**none_found, **self.statuses}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Call):
    """Everything that an operation needs: its limits and promises, the request, and the meaning of the reply.

    :param support: limits and promises.
    :param atomic: a request that is refused has written none of its rows. Otherwise, the rows of a refused request that
        may not be sent twice are unknown, and the sync's ``on_unknown`` decides.
    :param group: function of a row. Rows with different results are never in one request.
    :param find: request for the rows' ids, which comes first.
    :param ids: places in the reply of the ids of the records that were written, for ``then`` and ``write_ids``.
    :param then: flow of further requests for the rows that were written, given the reply. A row that fails here is
        rejected, and sent whole again by a later run, so the operation must be idempotent. Rows that ``find`` sends to
        the endpoint of the operation insert get these requests, too.
    :param results: place and format of the outcome of each row in the reply.
    :param success: place of a verdict on the whole request, in addition to its status.
    :param reply: with ``text``, only the status decides.
    :param error: paths of code and message in an error reply.
    :param statuses: statuses whose meaning differs from the usual one.
    :param codes: meaning of the codes of whole replies, which takes precedence over the status.
    :param idempotency_header: header for a key by which the API recognises a repeated request.
    :param path_names_row: the path names the row, so that status 404 means that the row does not exist; default: if it
        is a function, and ``rows`` is ``single``.
    """

    support: Support
    atomic: bool = False
    group: Callable[[Row], Hashable] | None = None
    find: Find | None = None
    ids: RecordPlaces | None = None
    then: Then | None = None
    results: Results | None = None
    success: Success | None = None
    reply: Literal["json", "text"] = "json"
    error: ErrorPaths = field(default_factory=ErrorPaths)
    statuses: Mapping[int, Action] = field(default_factory=dict)
    codes: Mapping[str, Action] = field(default_factory=dict)
    idempotency_header: str | None = None
    path_names_row: bool | None = None

    def __post_init__(self) -> None:
        if self.then is not None and not self.support.idempotent:
            raise ValueError("an endpoint with `then` must be idempotent, as its rows may be sent again")


class BatchApi(HttpDestination):
    """Base class of destinations that are described by endpoints. Does no I/O.

    Does not page, poll or upload.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        endpoints = dict(self.endpoints())
        self.capabilities = self.limits({operation: endpoint.support for operation, endpoint in endpoints.items()})
        if any(endpoint.ids or endpoint.find for endpoint in endpoints.values()):
            self.capabilities = replace(self.capabilities, gives_ids=True)
        self._endpoints = {
            operation: _Operation(self, operation, endpoint) for operation, endpoint in endpoints.items()
        }

    def endpoints(self) -> Mapping[Operation, Endpoint]:
        """Return the endpoint of each operation that the destination supports."""
        raise NotImplementedError

    def limits(self, operations: Mapping[Operation, Support]) -> Capabilities:
        """Return the destination's abilities. Override it for a rate, or for the way in which it compares records."""
        return Capabilities(operations)

    @final
    def flow(self, batch: Batch) -> Flow:
        """Send a batch, in one request if the endpoint allows it, and read the outcome of each row."""
        endpoint = self._endpoints[batch.operation]
        found = _Found()
        find = endpoint.endpoint.find
        if find:
            found = yield from self.look_up(find, batch)
            if found.refusal:
                return found.refusal
            batch = batch.without(found.decided)
        existing = batch.without(found.inserts)
        parts = found.parts_of(endpoint, existing)
        if found.inserts:
            parts += found.parts_of(self._endpoints[Operation.INSERT], batch.without(set(existing.keys)))
        then = endpoint.endpoint.then
        if len(parts) == 1 and not find and not found.decided:
            return (yield from self._send_part(*parts[0], found.ids, then))
        return (yield from self._send_parts(parts, found, then))

    @final
    def call(self, endpoint: Endpoint, rows: Sequence[Row], operation: Operation = Operation.UPSERT) -> Flow:
        """Send rows to another endpoint, for the ``then`` of an endpoint, and read the outcome of each row.

        The ids of their records are in :attr:`Row.id`.
        """
        prepared = _Operation(self, operation, endpoint)
        run_id = rows[0].run_id if rows else ""
        batch = Batch(operation, range(len(rows)), [row.key for row in rows], [row.record for row in rows], run_id)
        found = _Found(ids={row.key: row.id for row in rows if row.id is not None})
        return (yield from self._send_parts(found.parts_of(prepared, batch), found, endpoint.then))

    @final
    def look_up(self, asked: Find, batch: Batch) -> Generator[Request, Reply, _Found]:
        """Look up the records of a batch."""
        prepared = _Prepared(asked, asked.max_rows)
        result = _Found()
        for part in prepared.parts(batch):
            request, _, problems = prepared.request(part, {})
            result.decided.update(problems)
            if request is None:
                continue
            part = part.without(problems)
            try:
                reply = yield request
            except NotAnsweredError as lost:
                # No row is sent before all look-ups are answered, so nothing was written.
                return _Found(refusal=Receipts(replace(lost.receipt, outcome=Outcome.RETRYABLE)))
            action = action_of(reply.status, asked.meanings, self.actions, ACTIONS)
            if action not in (Action.ACCEPT, Action.SKIP):
                receipts = self.answer(part, reply, asked.meanings)
                # Nothing was written by a request that only reads.
                if receipts.default.outcome is Outcome.UNKNOWN:
                    receipts = replace(receipts, default=replace(receipts.default, outcome=Outcome.RETRYABLE))
                if len(part) == len(batch):
                    return _Found(refusal=receipts)
                result.decided.update(dict.fromkeys(part.keys, receipts.default))
                continue
            answer = reply.json() if action is Action.ACCEPT else []
            if action is Action.ACCEPT and not asked.places.are_in(answer):
                return _Found(refusal=self._no_records(asked.places, reply))
            self._match(asked, part, answer, result)
        return result

    def _match(self, find: Find, part: Batch, answer: Any, result: _Found) -> None:
        """Add the records of a look-up's reply to its result."""
        matches = find.places.ids(answer, part) if answer else {}
        for at, row_key in enumerate(part.keys):
            ids = matches.get(at, ())
            if len(ids) > 1:
                text = f"{len(ids)} records of the destination match the row"
                result.decided[row_key] = Receipt(Outcome.REJECTED, "ambiguous", text, self.server.host)
            elif ids:
                result.ids[row_key] = ids[0]
            elif find.missing == "insert":
                result.inserts.add(row_key)
            elif find.missing != "send":
                result.decided[row_key] = replace(_MISSING[find.missing], host=self.server.host)

    def _no_records(self, places: RecordPlaces, reply: Reply) -> Receipts:
        """Stop at a look-up whose reply cannot be read: its rows would count as missing."""
        problem = f"the reply to the look-up has no records at {places.records or '(the reply)'!r}"
        error = ConfigurationError(
            f"the destination answered {reply.status}, but {problem}",
            todo="correct `find.list` in the destination",
            **self.where,
        )
        receipt = Receipt(Outcome.RETRYABLE, REPLY_NOT_READ, problem, self.server.host, reply.status)
        return Receipts(receipt, stop=error)

    def _send_part(self, endpoint: _Operation, batch: Batch, ids: Mapping[str, Any], then: Then | None) -> Flow:
        """Send a batch in one request, and again without the rows that an API names when it refuses the whole batch.

        :param then: further requests for the rows that were written.
        """
        rejected: dict[str, Receipt] = {}
        while True:
            # Leave out the rows that cannot be sent.
            request, sent, problems = endpoint.request(batch, ids)
            if problems:
                rejected |= problems
                batch = batch.without(problems)
            if request is None:
                return Receipts(exceptions=rejected, requests=0)
            max_bytes = endpoint.endpoint.support.max_bytes
            if max_bytes and request.body and len(request.body) > max_bytes:
                return _with_rejected(too_large(batch, max_bytes), rejected)
            reply = yield request
            receipts, named = endpoint.replies.read(reply, sent)
            if not receipts.stop and named and len(named) < len(batch):
                # Nothing was written because of the named rows: send the others.
                rejected |= named
                batch = batch.without(named)
                continue
            places = endpoint.endpoint.ids
            if places and (then or self.sync.write_ids):
                ids = {**ids, **_ids(places, reply, batch)}
            if self.sync.write_ids:
                accepted = [key for key in batch.keys if key in ids and receipts.of(key).outcome is Outcome.ACCEPTED]
                receipts = replace(receipts, ids={key: str(ids[key]) for key in accepted})
            if then is not None and not receipts.stop:
                rows = [row for row in _rows(batch, ids) if receipts.of(row.key).outcome is Outcome.ACCEPTED]
                receipts = yield from self._further(then, rows, reply, batch, receipts)
            return _with_rejected(receipts, rejected)

    def _further(self, then: Then, rows: Sequence[Row], reply: Reply, batch: Batch, receipts: Receipts) -> Flow:
        """Send the further requests for the rows of a batch that were written."""
        if not rows:
            return receipts
        more = yield from then(rows, reply)
        outcomes = {key: receipts.of(key) for key in batch.keys}
        outcomes.update({row.key: more.of(row.key) for row in rows})
        refused = None
        if more.refused_whole:
            # Splitting repeats the first request as well, which is safe.
            refused = more.default
            outcomes = {key: found for key, found in outcomes.items() if found is not refused}
        last = replace(
            more,
            ids=receipts.ids,
            taken=receipts.taken,
            throttled=more.throttled or receipts.throttled,
            retry_after=more.retry_after or receipts.retry_after,
        )
        return _collected(outcomes, refused, last)

    def _send_parts(self, parts: Sequence[tuple[_Operation, Batch]], found: _Found, then: Then | None) -> Flow:
        """Send the parts of a batch, each in a request of its own."""
        outcomes = dict(found.decided)
        refused: Receipt | None = None
        last = Receipts()
        taken = False
        ids: dict[str, str] = {}
        for number, (endpoint, part) in enumerate(parts):
            if last.throttled or last.retry_after is not None:
                text = "the destination asked to wait before this row"
                outcomes |= dict.fromkeys(part.keys, Receipt(Outcome.RETRYABLE, "not_sent", text))
                continue
            try:
                receipts = yield from self._send_part(endpoint, part, found.ids, then)
            except NotAnsweredError as error:
                outcomes |= dict.fromkeys(part.keys, error.receipt)
                continue
            if receipts.stop:
                outcomes |= {key: receipts.of(key) for key in part.keys}
                text = "the load was stopped before this row"
                for _, unsent in parts[number + 1 :]:
                    outcomes |= dict.fromkeys(unsent.keys, Receipt(Outcome.RETRYABLE, "not_sent", text))
                return _collected(outcomes, None, Receipts(taken=taken, stop=receipts.stop, ids=ids))
            last = receipts if receipts.requests else last
            taken = taken or receipts.taken
            ids |= receipts.ids
            if receipts.refused_whole:
                refused = receipts.default
            outcomes |= {
                key: receipts.of(key) for key in part.keys if not receipts.refused_whole or key in receipts.exceptions
            }
        return _collected(outcomes, refused, replace(last, taken=taken, ids=ids))


@dataclass(slots=True)
class _Found:
    """Result of a look-up.

    :param ids: ids of existing records, by key of the row.
    :param decided: receipts of rows that are not sent.
    :param inserts: keys of rows that go to the endpoint of the operation insert.
    :param refusal: receipts of the whole batch, if the look-up failed.
    """

    ids: dict[str, Any] = field(default_factory=dict)
    decided: dict[str, Receipt] = field(default_factory=dict)
    inserts: set[str] = field(default_factory=set)
    refusal: Receipts | None = None

    def parts_of(self, endpoint: _Operation, batch: Batch) -> list[tuple[_Operation, Batch]]:
        """Part a batch for an endpoint. Rows of which the endpoint cannot tell the part are decided."""
        groups, problems = endpoint.groups(batch, self.ids)
        self.decided |= problems
        return [(endpoint, part) for group in groups for part in endpoint.parts(group)]


class _Prepared:
    """A call, with everything prepared that does not depend on the rows."""

    def __init__(self, call: Call, max_rows: int | None = None) -> None:
        self._call = call
        self._max_rows = max_rows
        self.single = call.rows == "single"
        self._encode = encoder(call.body, single=self.single, records=call.records, envelope=call.envelope)

    def parts(self, batch: Batch) -> list[Batch]:
        """Part a batch so that each part fits into one request."""
        most = 1 if self.single else self._max_rows or len(batch)
        if len(batch) <= most:
            return [batch] if len(batch) else []
        return [batch.only(range(start, min(start + most, len(batch)))) for start in range(0, len(batch), most)]

    def request(self, batch: Batch, ids: Mapping[str, Any]) -> tuple[Request | None, Batch, dict[str, Receipt]]:
        """Build the request of a batch.

        :returns: the request, or None if no row can be sent; the rows in it, with their items as records, because
            replies speak of these; the receipts of rows that cannot be sent, by key.
        """
        sent, rejected = self._items(batch, ids)
        if not len(sent):
            return None, sent, rejected
        try:
            path, headers = self._address(_rows(batch.without(rejected), ids))
        except BadValueError as error:
            receipt = Receipt(Outcome.REJECTED, "bad_value", str(error))
            return None, sent, {**rejected, **dict.fromkeys(sent.keys, receipt)}
        content, content_type, problems = self._encode(sent.records)
        if problems:
            rejected |= {sent.keys[at]: Receipt(Outcome.REJECTED, "not_json", text) for at, text in problems.items()}
            sent = sent.without(rejected)
            if not len(sent):
                return None, sent, rejected
        if content_type:
            headers.setdefault("Content-Type", content_type)
        return Request(self._call.method, path, content, headers or None), sent, rejected

    def _items(self, batch: Batch, ids: Mapping[str, Any]) -> tuple[Batch, dict[str, Receipt]]:
        make = self._call.item
        if make is None:
            return batch, {}
        items: list[Any] = []
        problems: dict[str, Receipt] = {}
        for row in _rows(batch, ids):
            try:
                items.append(make(row))
            except BadValueError as error:
                problems[row.key] = Receipt(Outcome.REJECTED, "bad_value", str(error))
        return replace(batch.without(problems), records=items), problems

    def _address(self, rows: Sequence[Row]) -> tuple[str, dict[str, str]]:
        row = rows[0]
        path = self._call.path_of_rows(rows) if self._call.path_of_rows else self._call.path
        headers = {name: value if isinstance(value, str) else value(row) for name, value in self._call.headers.items()}
        return path if isinstance(path, str) else path(row), headers


class _Operation(_Prepared):
    """The endpoint of an operation, with everything prepared that does not depend on the rows."""

    def __init__(self, destination: BatchApi, operation: Operation, endpoint: Endpoint) -> None:
        super().__init__(endpoint, endpoint.support.max_rows)
        self._destination = destination
        self.endpoint = endpoint
        names_row = endpoint.path_names_row
        if names_row is None:
            names_row = self.single and not isinstance(endpoint.path, str)
        self.replies = ReplyReader(destination, operation, endpoint, path_names_row=names_row)

    def groups(self, batch: Batch, ids: Mapping[str, Any]) -> tuple[list[Batch], dict[str, Receipt]]:
        """Group the rows that may be in one request.

        :returns: the groups, and the receipts of rows whose group is not known, by key.
        """
        group_of = self.endpoint.group
        if group_of is None or self.single:
            return [batch], {}
        groups: dict[Hashable, list[int]] = {}
        problems: dict[str, Receipt] = {}
        for position, row in enumerate(_rows(batch, ids)):
            try:
                groups.setdefault(group_of(row), []).append(position)
            except BadValueError as error:
                problems[row.key] = Receipt(Outcome.REJECTED, "bad_value", str(error))
        return [batch.only(positions) for positions in groups.values()], problems

    def request(self, batch: Batch, ids: Mapping[str, Any]) -> tuple[Request | None, Batch, dict[str, Receipt]]:
        """Build the request of a batch, with its idempotency key."""
        request, sent, rejected = super().request(batch, ids)
        if request is not None and self.endpoint.idempotency_header:
            key = self._idempotency_key(sent, request.url, request.body or b"")
            request = request.with_header(self.endpoint.idempotency_header, key)
        return request, sent, rejected

    def _idempotency_key(self, batch: Batch, path: str, content: bytes) -> str:
        """Return the key by which the API may recognise a repetition of this request.

        If the sync tracks what it inserted, each record is inserted once, whatever the run, so the key is the same in
        all runs. In all other cases a later plan may send the same content again on purpose, so the key differs.
        """
        sync = self._destination.sync
        if sync.mode != "insert" or not sync.tracked:
            return batch.idempotency_key(content)
        # The content identifies the record if it has the fields of match_on.
        record = () if sync.destination.match_on else batch.keys
        return digest(self._destination.server.url, path, *record, content)


def _ids(places: RecordPlaces, reply: Reply, batch: Batch) -> dict[str, Any]:
    """Return the ids of the records of rows, by key, as a reply gives them."""
    found = places.ids(reply.json(), batch)
    return {batch.keys[at]: ids[0] for at, ids in found.items() if ids[0] is not None}


def _path(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _rows(batch: Batch, ids: Mapping[str, Any]) -> list[Row]:
    return [Row(key, record, ids.get(key), batch.run_id) for key, record in zip(batch.keys, batch.records, strict=True)]


def _collected(outcomes: Mapping[str, Receipt], refused: Receipt | None, last: Receipts) -> Receipts:
    """Return the receipts of a batch from those of its rows.

    :param outcomes: receipts of all rows that were not refused as a whole.
    :param refused: receipt of the other rows; None without such rows.
    :param last: receipts of the last request, which say how long to wait, and whether the load ends.
    """
    if refused is None:
        outcomes = {key: receipt for key, receipt in outcomes.items() if receipt is not ACCEPTED}
    return replace(
        last, default=refused or ACCEPTED, exceptions=outcomes, refused_whole=refused is not None, requests=1
    )


def _with_rejected(receipts: Receipts, rejected: Mapping[str, Receipt]) -> Receipts:
    """Return the receipts of the rows that were sent, and those of the rows rejected before."""
    if not rejected:
        return receipts
    return replace(receipts, exceptions={**rejected, **receipts.exceptions})


def too_large(batch: Batch, max_bytes: int) -> Receipts:
    """Return the receipts of a request that would be larger than its limit."""
    receipt = Receipt(Outcome.REJECTED, "too_large", f"the row is larger than the limit of {max_bytes:,} bytes")
    return Receipts(receipt, refused_whole=len(batch) > 1, requests=0)
