"""Destination type ``hubspot``: objects of HubSpot's CRM, and associations between them.

Sources, read in November 2026: developers.hubspot.com, guides of the CRM objects API, the associations API v4, the
properties API and error handling.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from pydantic import Field

from airflow_reverse_etl.destinations.base import Setup
from airflow_reverse_etl.destinations.batch_api import BatchApi, Endpoint, Find, Missing, RecordPlaces, Row
from airflow_reverse_etl.destinations.http import Action, HttpOptions, Reply, Request
from airflow_reverse_etl.destinations.hubspot_associations import (
    ASSOCIATIONS,
    RECORD_ID,
    AssociationOptions,
    Associations,
    text_of,
)
from airflow_reverse_etl.destinations.info import Account, ConnectionForm, FormField, Info, Scopes
from airflow_reverse_etl.destinations.results import Results
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import NullValue
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.problems import title
from airflow_reverse_etl.sync.ports import Capabilities, FieldType, ObjectField, ObjectSchema, Support

#: Types of properties, and of enumerations by their ``fieldType``.
_TYPES: Mapping[str, FieldType] = {
    "string": "text",
    "phone_number": "text",
    "number": "number",
    "bool": "boolean",
    "date": "date",
    "datetime": "datetime",
}

#: Ids of the object types whose names may stand in a sync, for addresses of HubSpot's website.
_OBJECT_TYPES: Mapping[str, str] = {"contacts": "0-1", "companies": "0-2", "deals": "0-3", "tickets": "0-5"}
_TYPE_ID = re.compile(r"\d+-\d+")

#: A reply names the records that were refused by the ids of their own that they were sent with.
_RESULTS = Results(
    list=("errors",),
    rows="failed",
    key={"context.objectWriteTraceId": "objectWriteTraceId"},
    code="category",
    failed="numErrors",
)

INFO = Info(
    type="hubspot",
    title="HubSpot",
    docs="https://developers.hubspot.com/docs/api-reference/crm-objects",
    base_url="https://api.hubapi.com",
    test="/account-info/v3/details",
    scopes=Scopes(
        path="/oauth/v2/private-apps/get/access-token-info",
        field="tokenKey",
        list="scopes",
        needed=r"crm\.(objects|schemas)\..+\.write|tickets",
        example="crm.objects.contacts.write",
    ),
    account=Account("/account-info/v3/details", "portalId"),
    contract="CRM objects v3, associations v4 and properties v3 of hubspot-api-python, 2025-11-04",
    connection=ConnectionForm(
        type="reverse_etl_hubspot",
        name="HubSpot (Reverse ETL)",
        hook="airflow_reverse_etl.hooks.hubspot.HubSpotHook",
        labels={"host": "Base URL", "login": "Client id", "password": "Access token"},
        placeholders={
            "host": "empty: https://api.hubapi.com",
            "login": "empty with a private app; with OAuth, the app's client id",
            "password": "private app: Settings, Integrations, Private Apps, Auth",
        },
        hidden=("schema", "port"),
        fields={
            "token_url": FormField(
                "Token URL",
                "Empty with a private app. With OAuth: https://api.hubapi.com/oauth/v1/token, and the access token "
                "above is the app's client secret",
            ),
            "refresh_token": FormField(
                "Refresh token",
                "With OAuth: the token that HubSpot gave when the account installed the app",
                secret=True,
            ),
        },
    ),
    example="""\
name: contacts_to_hubspot
model: customers
source: warehouse
primary_key: customer_id
mode: upsert
mapping:
  email: email
  firstname: first_name
  lifetime_value: {sql: "round(revenue, 2)"}
  associations.companies: account_id
destination:
  type: hubspot
  connection: hubspot
  object: contacts
  match_on: email
  associations: {companies: {match_on: account_key}}
""",
)


class HubSpotOptions(HttpOptions):
    """Options of HubSpot."""

    object: Annotated[
        str,
        Field(
            min_length=1,
            description="type of the records: contacts, companies, deals, tickets, or the full name or id of a custom "
            "object",
        ),
    ]
    associations: Annotated[
        dict[str, AssociationOptions],
        Field(
            default_factory=dict,
            description="object: how the field `associations.<object>` of the mapping names the records that a record "
            "is associated with; in modes that upsert or update",
        ),
    ]


class HubSpot(BatchApi):
    """Writes records of one object, 100 a request, and tells from the reply which of them failed.

    Each record goes with its primary key as ``objectWriteTraceId``, by which HubSpot names those that it refuses.
    """

    info = INFO
    Options: ClassVar[type[HubSpotOptions]] = HubSpotOptions
    needs_match_on = frozenset({Operation.UPSERT, Operation.UPDATE, Operation.DELETE})
    #: 423: too many writes, which must pause for two seconds. 477: the account is being moved, which takes up to a day.
    actions: Mapping[int, Action] = {423: Action.THROTTLE, 477: Action.THROTTLE}

    def __init__(self, setup: Setup) -> None:
        problems = []
        if len(setup.sync.destination.match_on) > 1:
            problems.append("destination.match_on: HubSpot identifies records by one property")
        if setup.options.associations and Operation.INSERT in setup.operations:
            problems.append("destination.associations: need a mode that upserts or updates")
        if problems:
            raise SpecError(
                title(len(problems)), problems=tuple(problems), todo="correct the values below", sync=setup.sync.name
            )
        super().__init__(setup)

    def endpoints(self) -> Mapping[Operation, Endpoint]:
        """Return the batch calls of the object."""
        associations = self._associations()
        then = associations.flow if associations else None
        return {
            Operation.UPSERT: Endpoint(
                path=self._path("upsert"),
                records="inputs",
                item=self._upsert_item,
                support=_support(),
                results=_RESULTS,
                ids=RecordPlaces("results", (f"properties.{self._property}", self._property)),
                then=then,
            ),
            Operation.INSERT: Endpoint(
                path=self._path("create"),
                records="inputs",
                item=self._item,
                support=_support(idempotent=False),
                results=_RESULTS,
                ids=RecordPlaces("results", ("objectWriteTraceId", "")),
                atomic=True,
                # Another record has the value of a unique property: the row is rejected, and the others are written.
                statuses={409: Action.REFUSE},
            ),
            Operation.UPDATE: Endpoint(
                path=self._path("update"),
                records="inputs",
                item=lambda row: {"id": str(row.id), **self._item(row)},
                support=_support(),
                find=self._record_ids("skip"),
                results=_RESULTS,
                then=then,
            ),
            # It takes record ids only: another number would archive another record.
            Operation.DELETE: Endpoint(
                path=self._path("archive"),
                records="inputs",
                item=lambda row: {"id": str(row.id)},
                support=_support(),
                find=self._record_ids("accept"),
            ),
        }

    def limits(self, operations: Mapping[Operation, Support]) -> Capabilities:
        """Return the limits of the smallest account, 100 requests in ten seconds, until replies state the account's.

        An upsert by email sets every property, so its records are always whole.
        """
        by_email = self.sync.destination.match_on == ("email",) and Operation.UPSERT in self._setup.operations
        return Capabilities(
            operations,
            requests_per_second=9.5,
            concurrency=8,
            nulls=NullValue(value=""),
            ignore_case=True,
            always_sent=None if by_email else frozenset({ASSOCIATIONS}),
        )

    def fields(self) -> Generator[Request, Reply, ObjectSchema]:
        """Return the properties of the object, and a field for each object in ``associations``.

        Which properties a new record needs is known only to a token that may read the object's schema.
        """
        answer = self.checked((yield Request("GET", f"/crm/v3/properties/{self._object}")))
        schema = yield Request("GET", f"/crm/v3/schemas/{self._object}")
        required = schema.json().get("requiredProperties", ()) if schema.status == HTTPStatus.OK else ()
        fields = [_field(found, required) for found in answer["results"] if not found.get("archived")]
        fields += [ObjectField(f"{ASSOCIATIONS}.{name}") for name in self.options.associations]
        return ObjectSchema(fields)

    def records_url(self) -> str:
        """Return the list of the object's records in the account."""
        name = self.sync.destination.object or ""
        kind = _OBJECT_TYPES.get(name.lower(), name)
        if not self.known_account or not _TYPE_ID.fullmatch(kind):
            return ""
        return f"https://app.hubspot.com/contacts/{quote(self.known_account, safe='')}/objects/{kind}/views/all/list"

    @property
    def _object(self) -> str:
        return quote(self.options.object, safe="")

    def _path(self, call: str) -> str:
        return f"/crm/v3/objects/{self._object}/batch/{call}"

    @property
    def _property(self) -> str:
        """The property that identifies records."""
        [name] = self.sync.destination.match_on or (RECORD_ID,)
        return name

    def _record_ids(self, missing: Missing) -> Find:
        """Return the look-up of the records' ids. Status 404 means that none of them was found."""
        name = self._property
        by_id = name == RECORD_ID
        return Find(
            path=self._path("read"),
            records="inputs",
            item=lambda row: {"id": text_of(row.record[name])},
            envelope={"properties": [name]} if by_id else {"properties": [name], "idProperty": name},
            places=RecordPlaces("results", ("id" if by_id else f"properties.{name}", name)),
            missing=missing,
            statuses={404: Action.SKIP},
        )

    def _item(self, row: Row) -> dict[str, Any]:
        read_only = {RECORD_ID, ASSOCIATIONS}
        properties = {name: text_of(value) for name, value in row.record.items() if name not in read_only}
        return {"objectWriteTraceId": row.key, "properties": properties}

    def _upsert_item(self, row: Row) -> dict[str, Any]:
        return {"idProperty": self._property, "id": text_of(row.record[self._property]), **self._item(row)}

    def _associations(self) -> Associations | None:
        if not self.options.associations:
            return None
        return Associations(self, self.options.object, self.options.associations)


def _support(*, idempotent: bool = True) -> Support:
    return Support(idempotent=idempotent, answers="row", max_rows=100)


def _field(found: Mapping[str, Any], required: Collection[str]) -> ObjectField:
    """Return a property as a field."""
    choices = tuple(option["value"] for option in found.get("options") or ())
    kind: FieldType = _TYPES.get(found["type"], "any")
    # Owners, for example, are an enumeration whose choices are elsewhere.
    if found["type"] == "enumeration" and choices:
        kind = "choices" if found.get("fieldType") == "checkbox" else "choice"
    metadata = found.get("modificationMetadata") or {}
    name = found["name"]
    return ObjectField(
        name,
        kind,
        required=name in required,
        writable=not (found.get("calculated") or metadata.get("readOnlyValue")),
        # The API does not call these two unique, but recognises records by them.
        unique=bool(found.get("hasUniqueValue")) or name in ("email", RECORD_ID),
        choices=choices if kind in ("choice", "choices") else (),
    )
