"""Everything that people see of a destination type: reference page, JSON Schema, connection form and test.

Light to import. ``scripts/schema`` writes the forms into the package, so that Airflow reads them without importing a
destination.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FormField:
    """An additional field of a connection form, stored in the connection's extra.

    :param schema: what the field takes if it is not a line of text, as JSON Schema: ``enum``, ``type``, ``format``.
    """

    label: str
    description: str
    secret: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionForm:
    """A connection type of Airflow, and its form.

    :param type: connection type.
    :param name: its name in the list of connection types.
    :param hook: dotted name of its hook class, see :func:`airflow_reverse_etl.hooks.http.connection_hook`.
    :param labels: labels of the usual fields ``host``, ``schema``, ``login``, ``password``, ``port`` and ``extra``.
    :param placeholders: texts in empty fields.
    :param hidden: usual fields that the form leaves out.
    :param fields: additional fields, by name.
    """

    type: str
    name: str
    hook: str
    labels: Mapping[str, str] = field(default_factory=dict)
    placeholders: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    fields: Mapping[str, FormField] = field(default_factory=dict)

    def connection_type(self) -> dict[str, Any]:
        """Return the entry of ``connection-types`` in the information of an Airflow provider."""
        fields = {}
        for name, found in self.fields.items():
            schema: dict[str, Any] = {"type": ["string", "null"], **found.schema}
            if found.secret:
                schema["format"] = "password"
            fields[name] = {"label": found.label, "description": found.description, "schema": schema}
        return {
            "connection-type": self.type,
            "hook-class-name": self.hook,
            "hook-name": self.name,
            "ui-field-behaviour": {
                "hidden-fields": list(self.hidden),
                "relabeling": dict(self.labels),
                "placeholders": dict(self.placeholders),
            },
            "conn-fields": fields,
        }


@dataclass(frozen=True, slots=True)
class Account:
    """A request that tells which account the credentials belong to.

    :param path: path below the base URL, requested with GET.
    :param value: dotted path in the reply of the account's id.
    """

    path: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scopes:
    """A request that tells which scopes a connection's token has.

    :param path: path below the base URL, requested with POST.
    :param field: field of the body that has the token.
    :param list: field of the reply that has the names of the scopes.
    :param needed: pattern of the scopes of which syncs need at least one.
    :param example: such a scope, for the message.
    """

    path: str
    field: str
    list: str
    needed: str
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Description of a destination type.

    :param type: value of ``type`` in a sync's ``destination``.
    :param title: name, as its maker writes it.
    :param docs: URL of the API's documentation; empty without one.
    :param example: a whole sync file, in YAML.
    :param connection: the type's own connection type, or a sentence that says which connections it takes.
    :param base_url: base URL of a connection without a host.
    :param auth_header: header that carries the connection's password, unless the connection names another one. Empty:
        ``Authorization``, with the password as a bearer token, or as basic authentication with a login.
    :param test: path that the connection test requests, unless the connection has a ``test_path``.
    :param used_up: codes of errors that mean that the requests of the day are used up, for the connection test.
    :param scopes: request that tells the scopes of a token, for the connection test; None if the API has none.
    :param account: request that tells the account; None if the API has none. State belongs to an account: a sync whose
        credentials are those of another account stops.
    :param contract: description of the API, with its date, against which the type was proven.
    """

    type: str
    title: str
    example: str
    connection: ConnectionForm | str
    docs: str = ""
    base_url: str = ""
    auth_header: str = ""
    test: str = ""
    used_up: tuple[str, ...] = ()
    scopes: Scopes | None = None
    account: Account | None = None
    contract: str = ""
