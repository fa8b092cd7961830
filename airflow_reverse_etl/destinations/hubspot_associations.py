"""Associations between records of HubSpot, as the rows of a sync name them, and values as HubSpot takes them.

Source, read in November 2026: developers.hubspot.com, guide of the associations API v4.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

from pydantic import Field

from airflow_reverse_etl.destinations.base import Strict
from airflow_reverse_etl.destinations.batch_api import Endpoint, Find, RecordPlaces, Row
from airflow_reverse_etl.destinations.http import Action
from airflow_reverse_etl.destinations.json_encoding import dumps
from airflow_reverse_etl.destinations.results import Results
from airflow_reverse_etl.http.messages import Reply, Request
from airflow_reverse_etl.spec.field_types import BLANKS
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import Support

if TYPE_CHECKING:
    from airflow_reverse_etl.destinations.batch_api import BatchApi
    from airflow_reverse_etl.destinations.http import Flow

#: Property that holds HubSpot's own id of a record. It is read-only.
RECORD_ID = "hs_object_id"
#: Field of the mapping whose parts name other objects.
ASSOCIATIONS = "associations"

#: Most records or associations in a request.
_MOST = 100
_JSON = {"Content-Type": "application/json"}
_NO_ID = Receipt(Outcome.UNKNOWN, "no_id", "the reply does not have the id of the record")


class AssociationOptions(Strict):
    """Options of the associations with one object."""

    match_on: Annotated[
        str,
        Field(
            min_length=1,
            description="unique property of the other object that has the value of the field; default: the record id",
        ),
    ] = RECORD_ID
    type: Annotated[
        int | None, Field(description="id of the association's type or label; default: the unlabeled one")
    ] = None
    category: Annotated[
        Literal["HUBSPOT_DEFINED", "USER_DEFINED", "INTEGRATOR_DEFINED"],
        Field(description="category of the type; HubSpot ignores an association with a wrong one"),
    ] = "HUBSPOT_DEFINED"
    replace: Annotated[
        bool, Field(description="associations of a written record that its row does not name are removed")
    ] = False


class _Link(NamedTuple):
    """An association that a row names.

    :param key: primary key of the row.
    :param start: id of the row's record.
    :param end: id of the other record.
    """

    key: str
    start: str
    end: str


class Associations:
    """The further requests that associate the records of an object with those of others.

    :param of: the object.
    :param others: other object → options.
    """

    def __init__(self, api: BatchApi, of: str, others: Mapping[str, AssociationOptions]) -> None:
        self._api = api
        self._of = of
        self._others = others

    def flow(self, rows: Sequence[Row], reply: Reply) -> Flow:  # noqa: ARG002 - the rows have the ids of the reply
        """Associate the records that were written. A row fails if one of its associations does."""
        failed = {row.key: _NO_ID for row in rows if row.id is None}
        last = Receipts()
        for other, options in self._others.items():
            waiting = [row for row in rows if row.key not in failed and other in row.record.get(ASSOCIATIONS, {})]
            if not waiting or last.throttled or last.retry_after is not None:
                continue
            last = yield from self._associate(other, options, waiting)
            failed |= last.exceptions
            if last.stop:
                break
        return replace(last, exceptions=failed)

    def _associate(self, other: str, options: AssociationOptions, rows: Sequence[Row]) -> Flow:
        """Associate records with those of one other object; the receipts name every row that failed."""
        wanted = {row.key: _values(row.record[ASSOCIATIONS][other]) for row in rows}
        values = sorted({value for named in wanted.values() for value in named})
        ids: Mapping[str, Any] = {value: value for value in values}
        problems: Mapping[str, Receipt] = {}
        if options.match_on != RECORD_ID and values:
            found = yield from self._api.look_up(_ids_of(other, options.match_on), _named(options.match_on, values))
            if found.refusal:
                return _refused(rows, found.refusal)
            ids = found.ids
            problems = found.decided

        # A row that names an unknown record is not associated at all, and is sent again by a later run.
        text = f"no record of {other} has the value in {options.match_on}"
        not_found = Receipt(Outcome.REJECTED, "association_not_found", text, self._api.server.host)
        failed: dict[str, Receipt] = {}
        links: list[_Link] = []
        for row in rows:
            missing = [value for value in wanted[row.key] if value not in ids]
            if missing:
                failed[row.key] = problems.get(missing[0], not_found)
            else:
                links += [_Link(row.key, str(row.id), str(ids[value])) for value in wanted[row.key]]
        surplus: list[_Link] = []
        if options.replace:
            there = yield from self._existing(other, options, [row for row in rows if row.key not in failed])
            if isinstance(there, Reply):
                return _refused(rows, self._api.answer(_batch(rows), there))
            surplus = [link for link in there if link not in links]
            links = [link for link in links if link not in there]

        last = Receipts()
        for endpoint, some in ((self._removal(other, options), surplus), (self._creation(other, options), links)):
            if some and not last.stop:
                last = yield from self._write(endpoint, some)
                failed |= last.exceptions
        return replace(last, exceptions=failed)

    def _existing(
        self, other: str, options: AssociationOptions, rows: Sequence[Row]
    ) -> Generator[Request, Reply, list[_Link] | Reply]:
        """Return the associations that the records of rows have, or a reply that refuses to tell."""
        keys = {str(row.id): row.key for row in rows}
        links: list[_Link] = []
        for part in _parts(list(keys)):
            body = {"inputs": [{"id": start} for start in part]}
            reply = yield Request("POST", self._path(other, "read"), dumps(body), _JSON)
            if reply.status == 404:  # none has an association
                continue
            if reply.status >= 300:
                return reply
            for result in _results(reply):
                start = str(result["from"]["id"])
                ends = [to for to in result["to"] if _has_type(to, options.type)]
                links += [_Link(keys[start], start, str(to["toObjectId"])) for to in ends]
        return links

    def _write(self, endpoint: Endpoint, links: Sequence[_Link]) -> Flow:
        """Send associations; the receipts are those of the links' rows."""
        rows = [Row(str(at), {"from": link.start, "to": link.end}) for at, link in enumerate(links)]
        receipts = yield from self._api.call(endpoint, rows)
        failed = {}
        for row, link in zip(rows, links, strict=True):
            receipt = receipts.of(row.key)
            if receipt.outcome is not Outcome.ACCEPTED:
                failed[link.key] = receipt
        return replace(receipts, default=Receipts().default, exceptions=failed, refused_whole=False)

    def _creation(self, other: str, options: AssociationOptions) -> Endpoint:
        types = _types(options)
        return Endpoint(
            path=self._path(other, "create" if types else "associate/default"),
            records="inputs",
            item=lambda row: {"from": {"id": row.record["from"]}, "to": {"id": row.record["to"]}, **types},
            support=_SUPPORT,
            results=_RESULTS,
        )

    def _removal(self, other: str, options: AssociationOptions) -> Endpoint:
        types = _types(options)

        def item(row: Row) -> dict[str, Any]:
            end = {"id": row.record["to"]}
            return {"from": {"id": row.record["from"]}, "to": end if types else [end], **types}

        path = self._path(other, "labels/archive" if types else "archive")
        return Endpoint(path=path, records="inputs", item=item, support=_SUPPORT)

    def _path(self, other: str, call: str) -> str:
        return f"/crm/v4/associations/{quote(self._of, safe='')}/{quote(other, safe='')}/batch/{call}"


#: Sending an association twice has the same result as sending it once.
_SUPPORT = Support(idempotent=True, answers="row", max_rows=_MOST)
_RESULTS = Results(
    list=("errors",), rows="failed", key={"context.fromObjectId": "from.id"}, code="category", failed="numErrors"
)


def text_of(value: Any) -> str:
    """Return a value as HubSpot takes it: as text; several choices with semicolons between them."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case list():
            return ";".join(map(text_of, value))
        case datetime():
            # A time without a zone is in UTC.
            moment = value.astimezone(UTC) if value.tzinfo else value
            return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
        case date():
            return value.isoformat()
        case Decimal():
            return f"{value:f}"
        case _:
            return str(value)


def _values(value: Any) -> list[str]:
    """Return the values by which a row names other records: none, one, or a list."""
    values = value if isinstance(value, list) else [value]
    texts = [text_of(one).strip(BLANKS) for one in values]
    return list(dict.fromkeys(filter(None, texts)))


def _ids_of(other: str, name: str) -> Find:
    """Return the look-up of records by a unique property. Status 404 means that none of them was found."""
    return Find(
        path=f"/crm/v3/objects/{quote(other, safe='')}/batch/read",
        records="inputs",
        item=lambda row: {"id": row.record[name]},
        envelope={"idProperty": name, "properties": [name]},
        places=RecordPlaces("results", (f"properties.{name}", name)),
        missing="send",
        max_rows=_MOST,
        statuses={404: Action.SKIP},
    )


def _named(name: str, values: Sequence[str]) -> Batch:
    return Batch(Operation.UPDATE, range(len(values)), values, [{name: value} for value in values])


def _batch(rows: Sequence[Row]) -> Batch:
    return Batch(Operation.UPSERT, range(len(rows)), [row.key for row in rows], [dict(row.record) for row in rows])


def _refused(rows: Sequence[Row], receipts: Receipts) -> Receipts:
    """Return the receipts of rows for which a request that only reads was refused."""
    exceptions = dict.fromkeys((row.key for row in rows), receipts.default)
    return replace(receipts, default=Receipts().default, exceptions=exceptions, refused_whole=False)


def _types(options: AssociationOptions) -> dict[str, Any]:
    if options.type is None:
        return {}
    return {"types": [{"associationCategory": options.category, "associationTypeId": options.type}]}


def _has_type(to: Mapping[str, Any], wanted: int | None) -> bool:
    return wanted is None or any(one.get("typeId") == wanted for one in to.get("associationTypes", ()))


def _results(reply: Reply) -> Sequence[Mapping[str, Any]]:
    answer = reply.json()
    found = answer.get("results") if isinstance(answer, Mapping) else None
    return found if isinstance(found, list) else []


def _parts(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _MOST] for start in range(0, len(values), _MOST)]
