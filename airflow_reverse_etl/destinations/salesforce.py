"""Destination type ``salesforce``: records of any object, by sObject Collections of the REST API, and by Bulk API 2.0.

Sources, read in November 2026: developer.salesforce.com, REST API guide (sObject Collections, query, describe, limits,
status codes), and simple-salesforce's ``login``, whose connections it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlencode

from pydantic import Field

from airflow_reverse_etl.destinations.base import Setup
from airflow_reverse_etl.destinations.batch_api import Endpoint, Find, RecordPlaces, Row
from airflow_reverse_etl.destinations.http import HttpOptions, Reply, Request
from airflow_reverse_etl.destinations.info import Account, Info
from airflow_reverse_etl.destinations.results import Results
from airflow_reverse_etl.destinations.salesforce_bulk import BulkJobs
from airflow_reverse_etl.destinations.salesforce_codes import REPLIES, ROWS
from airflow_reverse_etl.destinations.salesforce_connection import http_connection
from airflow_reverse_etl.destinations.salesforce_csv import plain_fields
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.http.server import Server
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.problems import title
from airflow_reverse_etl.sync.ports import Capabilities, ConnectionInfo, FieldType, ObjectField, ObjectSchema, Support

#: Version of the API, unless a sync sets another one.
VERSION = "62.0"

#: Most rows of a request that has their values in its URL, of which 16,384 bytes are allowed.
_BY_ID = 100
_TYPES: Mapping[str, FieldType] = {
    **dict.fromkeys(("string", "textarea", "phone", "url", "email", "id", "reference", "combobox"), "text"),
    **dict.fromkeys(("double", "currency", "percent"), "number"),
    "int": "integer",
    "boolean": "boolean",
    "date": "date",
    "datetime": "datetime",
    "multipicklist": "choices",
}

INFO = Info(
    type="salesforce",
    title="Salesforce",
    docs="https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/",
    test=f"/services/data/v{VERSION}/limits",
    used_up=("REQUEST_LIMIT_EXCEEDED",),
    account=Account(f"/services/data/v{VERSION}/query?q=SELECT+Id+FROM+Organization", "records.0.Id"),
    contract="the guides of the REST API 62.0 (sObject Collections) and of Bulk API 2.0, of 2026-11-25",
    connection="The connection is of type `salesforce`, of apache-airflow-providers-salesforce: with `consumer_key`, "
    "`consumer_secret` and the `domain` of your organization (client credentials), or with user name, `consumer_key` "
    "and `private_key` (JWT). A connection of type `reverse_etl_http` with OAuth works as well.",
    example="""\
name: accounts_to_salesforce
model: accounts
source: warehouse
primary_key: account_id
mode: upsert
mapping:
  Account_Key__c: account_id
  Name: name
  AnnualRevenue: revenue
  Parent.Account_Key__c: parent_id
destination:
  type: salesforce
  connection: salesforce
  object: Account
  match_on: Account_Key__c
""",
)


#: Hosts that log in to any organization, and have no records.
_LOGINS = ("https://login.salesforce.com", "https://test.salesforce.com")


class SalesforceOptions(HttpOptions):
    """Options of Salesforce."""

    object: Annotated[str, Field(min_length=1, description="API name of the object: Contact, Account, Invoice__c …")]
    version: Annotated[str, Field(pattern=r"^\d\d\.0$", description="version of the REST API")] = VERSION
    allow_duplicates: Annotated[
        bool, Field(description="records are written although a duplicate rule of the organization reports them")
    ] = False
    bulk_from_rows: Annotated[
        int | None,
        Field(
            ge=1,
            description="number of rows of one kind (added and changed, removed) in a plan from which they are sent as "
            "jobs of Bulk API 2.0 instead of 200 a request; null: never. With `allow_duplicates`, in mode `append` and "
            "without `match_on` none are",
        ),
    ] = 10_000


class Salesforce(BulkJobs):
    """Writes 200 records a request, each by itself, whose results are in the same order; or many records a job."""

    info = INFO
    codes = REPLIES
    Options: ClassVar[type[SalesforceOptions]] = SalesforceOptions
    needs_match_on = frozenset({Operation.UPSERT, Operation.UPDATE, Operation.DELETE})

    def __init__(self, setup: Setup) -> None:
        match_on = setup.sync.destination.match_on
        problems = []
        if len(match_on) > 1:
            problems.append("destination.match_on: Salesforce identifies records by one field")
        if match_on == ("Id",) and Operation.UPSERT in setup.operations:
            problems.append("destination.match_on: an upsert needs an external id; mode update takes Id")
        if problems:
            raise SpecError(
                title(len(problems)), problems=tuple(problems), todo="correct the values below", sync=setup.sync.name
            )
        super().__init__(setup)

    def records_url(self) -> str:
        """Return the list of the object's records in the organization, whose host the token's reply may tell first."""
        organization = self.server.auth.base_url or self.server.url
        if organization in _LOGINS:
            return ""
        return f"{organization}/lightning/o/{quote(self._object, safe='')}/list"

    def endpoints(self) -> Mapping[Operation, Endpoint]:
        """Return the calls of sObject Collections. Updates and deletes look up the ids first, unless rows have them."""
        records = "/composite/sobjects"
        upsert = f"{records}/{self._object}/{quote(self._key, safe='')}"
        return {
            Operation.UPSERT: self._write(Operation.UPSERT, "PATCH", upsert, self._item),
            Operation.INSERT: self._write(Operation.INSERT, "POST", records, self._item),
            Operation.UPDATE: self._write(Operation.UPDATE, "PATCH", records, self._update_item, rows=_BY_ID),
            Operation.DELETE: Endpoint(
                path="",
                path_of_rows=self._delete_path,
                method="DELETE",
                body="none",
                support=_support(_BY_ID),
                results=_results(Operation.DELETE),
                find=self.find_of(Operation.DELETE),
            ),
        }

    def _write(
        self, operation: Operation, method: str, path: str, item: Callable[[Row], Any], *, rows: int = 200
    ) -> Endpoint:
        return Endpoint(
            path=self.path_of(path),
            method=method,
            headers={"Sforce-Duplicate-Rule-Header": "allowSave=true"} if self.options.allow_duplicates else {},
            records="records",
            envelope={"allOrNone": False},
            item=item,
            support=_support(rows, idempotent=operation is not Operation.INSERT),
            results=_results(operation),
            ids=RecordPlaces(),
            find=self.find_of(operation),
        )

    def limits(self, operations: Mapping[Operation, Support]) -> Capabilities:
        """Return the limits. Few requests at a time, as records of one parent lock each other out."""
        return Capabilities(operations, concurrency=4, ignore_case=True, always_sent=frozenset())

    def fields(self) -> Generator[Request, Reply, ObjectSchema]:
        """Return the object's fields, and its relations, by which a parent is named with its external id."""
        answer = self.checked((yield Request("GET", self.path_of(f"/sobjects/{self._object}/describe"))))
        fields = [_field(found) for found in answer["fields"]]
        relations = {found["relationshipName"] for found in answer["fields"] if found.get("relationshipName")}
        return ObjectSchema([*fields, *(ObjectField(name) for name in sorted(relations))])

    def _server(self, connection: ConnectionInfo) -> Server:
        return super()._server(http_connection(connection))

    @property
    def _object(self) -> str:
        return quote(self.options.object, safe="")

    @property
    def _key(self) -> str:
        return self.sync.destination.match_on[0] if self.sync.destination.match_on else "Id"

    def path_of(self, path: str) -> str:
        """Return the path of a resource of the API."""
        return f"/services/data/v{self.options.version}{path}"

    def _item(self, row: Row) -> dict[str, Any]:
        record = dict(plain_fields(row.record))
        return {"attributes": {"type": self.options.object}, **record}

    def _update_item(self, row: Row) -> dict[str, Any]:
        item = self._item(row)
        item.pop("Id", None)
        return {**item, "id": str(row.id or row.record["Id"])}

    def _delete_path(self, rows: Sequence[Row]) -> str:
        ids = ",".join(str(row.id or row.record["Id"]) for row in rows)
        return self.path_of(f"/composite/sobjects?{urlencode({'ids': ids, 'allOrNone': 'false'}, safe=',')}")

    def find_of(self, operation: Operation) -> Find | None:
        """Return the query for the ids of records that are updated or deleted, unless rows have them."""
        if operation in (Operation.UPSERT, Operation.INSERT) or self._key == "Id":
            return None
        return Find(
            path="",
            path_of_rows=lambda rows: self.query_path(
                self.options.object, self._key, self._key, (row.record[self._key] for row in rows)
            ),
            method="GET",
            body="none",
            places=RecordPlaces("records", (self._key, self._key), "Id"),
            missing="skip" if operation is Operation.UPDATE else "accept",
            max_rows=_BY_ID,
        )

    def query_path(self, object_: str, field: str, by: str, values: Iterable[Any]) -> str:
        """Return the path of a query for the ids of records, and a field, by values of a field."""
        texts = ", ".join(map(_literal, values))
        query = f"SELECT Id, {field} FROM {object_} WHERE {by} IN ({texts})"  # noqa: S608 - escaped
        return self.path_of(f"/query?{urlencode({'q': query})}")


def _support(max_rows: int, *, idempotent: bool = True) -> Support:
    return Support(idempotent=idempotent, answers="row", max_rows=max_rows)


def _results(operation: Operation) -> Results:
    codes = dict(ROWS[operation])
    return Results(ok={"success": True}, code="errors.0.statusCode", message="errors.0.message", codes=codes)


def _literal(value: Any) -> str:
    """Return a value in SOQL."""
    if isinstance(value, bool | int | float):
        return str(value).lower()
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _field(found: Mapping[str, Any]) -> ObjectField:
    """Return a field of the object's description."""
    kind: FieldType = _TYPES.get(found["type"], "any")
    choices = tuple(value["value"] for value in found.get("picklistValues") or () if value.get("active", True))
    if found["type"] == "picklist":
        kind = "choice" if found.get("restrictedPicklist") else "text"
    creates = bool(found.get("createable"))
    return ObjectField(
        found["name"],
        kind if choices or kind != "choices" else "any",
        required=creates and not (found.get("nillable") or found.get("defaultedOnCreate")),
        writable=creates or bool(found.get("updateable")),
        unique=any(found.get(name) for name in ("externalId", "idLookup", "unique")),
        choices=choices if kind in ("choice", "choices") else (),
    )
