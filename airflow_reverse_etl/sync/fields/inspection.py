"""Look at a destination before a plan is made: which account it is, and whether the mapping fits its fields."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import Sync, ValueField
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.spec.problems import nearest, title
from airflow_reverse_etl.sync.context import RunContext
from airflow_reverse_etl.sync.load.rate_limit import pace_of
from airflow_reverse_etl.sync.ports import (
    DailyLimitError,
    DescribesFields,
    Destination,
    ObjectField,
    ObjectSchema,
    TellsAccount,
)

#: Operations that may make a new record.
_CREATE = frozenset({Operation.UPSERT, Operation.INSERT})
#: Operations that find an existing record by ``match_on``.
_MATCH = frozenset({Operation.UPSERT, Operation.UPDATE, Operation.DELETE})


async def inspect(sync: Sync, destination: Destination, context: RunContext) -> str:
    """Ask a destination for its account and its fields, if it has either, and check the mapping. Reads no row.

    :returns: the account of the credentials; empty if the destination cannot tell.
    :raises SpecError: the mapping does not fit the destination's fields; lists all problems.
    :raises CredentialsError: the destination refused the credentials.
    :raises UnreachableError: the destination did not answer.
    """
    if sync.sends_changed and destination.capabilities.always_sent is None:
        raise SpecError(
            title(1),
            problems=(f"send: changed: type {sync.destination.type} takes whole records only",),
            todo="remove send from the sync",
            sync=sync.name,
        )
    teller = destination if isinstance(destination, TellsAccount) and destination.tells_account else None
    describer = destination if isinstance(destination, DescribesFields) and destination.describes_fields else None
    if teller is None and describer is None:
        return ""
    pace = pace_of(sync, destination, context)
    await destination.open(pace)
    account = ""
    schema = None
    try:
        # Once the requests of the day are used up, no row is sent either.
        with contextlib.suppress(DailyLimitError):
            account = await teller.account() if teller else ""
            schema = await describer.describe() if describer else None
    finally:
        await destination.close()
        await pace.close()
    if schema and (problems := tuple(mapping_problems(sync, schema))):
        raise SpecError(
            title(len(problems)),
            problems=problems,
            todo="correct the mapping: the destination's fields are named below",
            sync=sync.name,
            connection=sync.destination.connection,
        )
    return account


def mapping_problems(sync: Sync, schema: ObjectSchema) -> Iterator[str]:
    """Yield the reasons why a mapping does not fit the fields of a destination's object."""
    fields = {field.name: field for field in schema.fields}
    writable = [name for name, field in fields.items() if field.writable]
    for name, source in sync.mapping.items():
        field = _field(fields, name)
        if field is None:
            if not schema.open:
                yield f"mapping.{name}: field not found at the destination{nearest(name, writable)}"
        elif not field.writable and name not in sync.destination.match_on:
            yield f"mapping.{name}: the field is read-only at the destination"
        elif isinstance(source, ValueField) and field.type == "choice" and str(source.value) not in field.choices:
            yield f"mapping.{name}: not one of the field's choices{nearest(str(source.value), field.choices)}"
    operations = set(OPERATIONS[sync.mode].values())
    if operations & _CREATE:
        for field in schema.fields:
            if field.required and not any(_is_part(name, field.name) for name in sync.mapping):
                yield f"mapping: field {field.name!r} is missing, which the destination requires of a new record"
    if operations & _MATCH:
        for name in sync.destination.match_on:
            if (field := fields.get(name)) and field.unique is False:
                unique = [other.name for other in schema.fields if other.unique]
                yield f"destination.match_on: field {name!r} is not unique at the destination{nearest('', unique)}"


def _field(fields: dict[str, ObjectField], name: str) -> ObjectField | None:
    """Return the field that a name of the mapping is, or is a part of."""
    if name in fields:
        return fields[name]
    parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
    return next((fields[parent] for parent in parents if parent in fields), None)


def _is_part(name: str, of: str) -> bool:
    return name == of or name.startswith(f"{of}.")
