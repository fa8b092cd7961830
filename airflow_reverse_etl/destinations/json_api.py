"""Destination type ``http``: any JSON API, described by options."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from airflow_reverse_etl.destinations.batch_api import BatchApi, Endpoint, Find, Missing, RecordPlaces, Row
from airflow_reverse_etl.destinations.http import Flow, HttpOptions
from airflow_reverse_etl.destinations.info import Account, ConnectionForm, FormField, Info
from airflow_reverse_etl.destinations.json_options import (
    CallOptions,
    EndpointOptions,
    FindOptions,
    JsonApiOptions,
    RecordPaths,
    ReplyOptions,
)
from airflow_reverse_etl.destinations.templates import (
    BadValueError,
    Structure,
    Template,
    header_value,
    names_in,
    path_value,
)
from airflow_reverse_etl.http.messages import Reply, value_at
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import ACCEPTED, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import Capabilities, Support

_DEFAULT_BATCH_ROWS = 100
_MISSING: Mapping[Operation, Missing] = {
    Operation.DELETE: "accept",
    Operation.UPDATE: "skip",
    Operation.UPSERT: "insert",
}
_NO_ID = Receipt(
    Outcome.REJECTED, "no_id", "the reply has no id of the record, which a further request needs: correct `ids`"
)


INFO = Info(
    type="http",
    title="any JSON API",
    connection=ConnectionForm(
        type="reverse_etl_http",
        name="HTTP API (Reverse ETL)",
        hook="airflow_reverse_etl.hooks.http.ReverseEtlHttpHook",
        labels={"host": "Base URL", "login": "User name", "password": "Password or token"},
        placeholders={
            "host": "https://api.example.com/v2, as the API's documentation names it",
            "login": "empty: the password is a token. With OAuth 2.0: the client's id",
            "password": "the token of the API's settings page. With OAuth 2.0: the client's secret",
        },
        hidden=("schema",),  # the base URL has the scheme
        fields={
            "headers": FormField(
                "Headers",
                'Headers of every request, as a JSON object such as {"X-Version": "2"}. Forms show them: no secrets',
                schema={"type": ["object", "null"]},
            ),
            "verify": FormField(
                "Verify certificate",
                "true (default), false, or the path on every worker of a file with your own authority's certificate",
                schema={"examples": ["true", "false"]},
            ),
            "test_path": FormField(
                "Test path",
                "Path below the base URL that the connection test requests with GET, such as /v1/me: one that needs "
                "the token and changes nothing",
            ),
            "auth_header": FormField(
                "Token header",
                "Header that carries the token, such as X-Api-Key. Empty: Authorization, as a bearer token",
            ),
            "auth_query": FormField(
                "Token parameter", "Parameter of the URL that carries the token, such as api_key, instead of a header"
            ),
            "auth_body": FormField(
                "Token field", "Field of the body, a JSON object, that carries the token, instead of a header"
            ),
            "token_url": FormField(
                "Token URL", "OAuth 2.0: URL of the token endpoint, in the API's documentation on authentication"
            ),
            "scope": FormField("Scope", "OAuth 2.0: scopes that the API's documentation names, separated by spaces"),
            "refresh_token": FormField(
                "Refresh token", "OAuth 2.0: refresh token of the account. Empty: client credentials", secret=True
            ),
            "private_key": FormField(
                "Private key",
                "OAuth 2.0: key that signs the client's assertion (JWT bearer): the whole .pem file. Line breaks that "
                "a form takes away are put back",
                secret=True,
            ),
            "google_conn_id": FormField("Google connection", "Id of a Google Cloud connection, for its access token"),
            "aws_conn_id": FormField("AWS connection", "Id of an AWS connection, which signs each request"),
        },
    ),
    example="""\
name: contacts_to_crm
model: customers
source: warehouse
primary_key: customer_id
mode: upsert
mapping:
  email: email
  name: full_name
  plan: {sql: upper(plan)}
destination:
  type: http
  connection: crm
  object: contacts
  match_on: email
  path: /v1/{{ object }}/batch
  records: records
  max_batch_rows: 200
  results: {list: results, key: {email: email}, ok: {status: [created, updated]}, code: error.code}
""",
)


class JsonApi(BatchApi):
    """Sends rows to a JSON API and reads the outcome of each row from the reply, as the options describe.

    Does not page, poll or upload. An API that needs more needs a destination of its own.
    """

    info = INFO
    Options: ClassVar[type[HttpOptions]] = JsonApiOptions

    @property
    def account_request(self) -> Account | None:
        """The request of the option ``account``."""
        found = self.options.account
        return Account(found.path, found.value) if found else None

    def endpoints(self) -> Mapping[Operation, Endpoint]:
        """Return the endpoints that the options describe."""
        options: JsonApiOptions = self.options
        found = options.endpoints()
        return {operation: self._endpoint(operation, endpoint, found) for operation, endpoint in found.items()}

    def limits(self, operations: Mapping[Operation, Support]) -> Capabilities:
        """Return the abilities of any JSON API. Most compare identifiers, such as e-mail addresses, without case."""
        return Capabilities(operations, ignore_case=True, always_sent=self._named_fields())

    def _named_fields(self) -> frozenset[str]:
        """Return the fields that the options name: in paths and items, or to find a row in a reply."""
        texts = self.options.model_dump_json()
        return frozenset(name for name in self.sync.mapping if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", texts))

    def _endpoint(
        self, operation: Operation, options: EndpointOptions, others: Mapping[Operation, EndpointOptions]
    ) -> Endpoint:
        single = options.rows == "single"
        max_rows = options.max_batch_rows or self.sync.rate.batch_size or _DEFAULT_BATCH_ROWS
        call = self._call(operation, options, options.group_by)
        find = None
        if options.find:
            find = self._find_call(operation, options.find, can_insert=Operation.INSERT in others)
        names = Template(options.path or "", str).names
        return Endpoint(
            **call,
            support=Support(
                idempotent=self.options.is_idempotent(operation),
                answers=options.worth,
                max_rows=1 if single else max_rows,
                max_bytes=options.max_batch_bytes,
            ),
            atomic=options.atomic,
            group=partial(_group, options.group_by) if options.group_by else None,
            find=find,
            ids=_places(options.ids) if options.ids else None,
            then=self._further_requests(operation, options) if options.then else None,
            **_reply(options),
            idempotency_header=self.options.idempotency_header,
            path_names_row=bool(names & {"row", "id"}) and single,
        )

    def _call(self, operation: Operation, options: CallOptions, group_by: Sequence[str] = ()) -> dict[str, Any]:
        """Return the arguments of a :class:`Call`."""
        values = {"object": self.options.object, "operation": operation.value}
        single = options.rows == "single"
        without_body = options.method == "GET" or (options.method == "DELETE" and single)
        limited = tuple(group_by) if not single else None
        headers = {
            name: _text_of(Template(text, header_value), values, limited) for name, text in options.headers.items()
        }
        return {
            "path": _text_of(Template(options.path or "", path_value), values, limited),
            "method": options.method,
            "headers": headers,
            "rows": options.rows,
            "item": partial(_item, Structure(options.item)) if options.item is not None else None,
            "body": options.body or ("none" if without_body else "json"),
            "records": options.records or "",
            "envelope": options.envelope,
        }

    def _find_call(self, operation: Operation, options: FindOptions, *, can_insert: bool) -> Find:
        missing: Missing = options.missing or _MISSING.get(operation, "send")
        if missing == "insert" and not can_insert:
            missing = "send"
        call = self._call(operation, options)
        return Find(
            **call,
            places=_places(options),
            missing=missing,
            max_rows=options.max_batch_rows,
            statuses=options.statuses,
        )

    def _further_requests(
        self, operation: Operation, options: EndpointOptions
    ) -> Callable[[Sequence[Row], Reply], Flow]:
        """Return the flow of the further requests for rows that were written."""
        support = Support(idempotent=True, answers="row", max_rows=options.max_batch_rows or _DEFAULT_BATCH_ROWS)
        calls = [
            _Further(
                Endpoint(**self._call(operation, then), support=support, **_reply(then)),
                Structure(then.when) if then.when else None,
                "id" in names_in([then.path, then.headers, then.item]),
            )
            for then in options.then
        ]

        def flow(rows: Sequence[Row], reply: Reply) -> Flow:  # noqa: ARG001 - the ids of the reply are in the rows
            failed: dict[str, Receipt] = {}
            for further in calls:
                waiting = [row for row in rows if row.key not in failed]
                chosen, undecided = further.chosen(waiting)
                failed |= undecided
                if not chosen:
                    continue
                receipts = yield from self.call(further.endpoint, chosen, operation)
                if receipts.refused_whole:
                    others = {row.key for row in rows} - {row.key for row in chosen}
                    failed = {**dict.fromkeys(others, ACCEPTED), **failed}
                failed |= receipts.exceptions
                if receipts.refused_whole or receipts.throttled or receipts.retry_after or receipts.stop:
                    return replace(receipts, exceptions=failed)
            return Receipts(exceptions=failed)

        return flow


def _reply(options: ReplyOptions) -> dict[str, Any]:
    """Return the arguments of an :class:`Endpoint` that say what a reply means."""
    return {name: getattr(options, name) for name in ReplyOptions.model_fields}


def _places(options: RecordPaths) -> RecordPlaces:
    return RecordPlaces(options.list, next(iter(options.key.items()), None), options.id)


def _text_of(
    template: Template, values: Mapping[str, Any], group_by: Sequence[str] | None
) -> str | Callable[[Row], str]:
    """Return the text of a template, or a function of the row if it depends on the row or the run.

    :param group_by: the only fields of the row that the template may read; None for all.
    """
    if not template.names & {"row", "id", "run_id"}:
        with suppress(BadValueError):  # then it is a problem of each row
            return template.render(**values)

    def text(row: Row) -> str:
        record = row.record
        if group_by is not None:
            record = {name: value_at(record, name.split(".")) for name in group_by}
        return template.render(**values, run_id=row.run_id, row=record, id=row.id)

    return text


@dataclass(frozen=True, slots=True)
class _Further:
    """A further request for rows that were written.

    :param when: expression that is true for the rows to send; None for all.
    :param needs_id: the request has the id of the row's record.
    """

    endpoint: Endpoint
    when: Structure | None
    needs_id: bool

    def chosen(self, rows: Sequence[Row]) -> tuple[list[Row], dict[str, Receipt]]:
        """Return the rows to send, and the receipts of rows that cannot be sent, by key."""
        chosen: list[Row] = []
        problems: dict[str, Receipt] = {}
        for row in rows:
            try:
                if self.when is not None and not _item(self.when, row):
                    continue
            except BadValueError as error:
                problems[row.key] = Receipt(Outcome.REJECTED, "bad_value", str(error))
                continue
            if self.needs_id and row.id is None:
                problems[row.key] = _NO_ID
            else:
                chosen.append(row)
        return chosen, problems


def _item(structure: Structure, row: Row) -> Any:
    return structure.render(row=row.record, id=row.id, run_id=row.run_id)


def _group(fields: Sequence[str], row: Row) -> Hashable:
    return tuple(str(value_at(row.record, name.split("."))) for name in fields)
