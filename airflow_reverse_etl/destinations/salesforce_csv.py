"""CSV of Bulk API 2.0: rows as Salesforce takes them, and results as it returns them. Pure.

Source, read in November 2026: developer.salesforce.com, guide of Bulk API 2.0, "Prepare CSV Files" and "Relationship
Fields in a Header Row".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps
from airflow_reverse_etl.destinations.templates import BadValueError

#: Cell that clears a field. An empty cell leaves it as it is.
NULL = "#N/A"


def table(records: Sequence[Mapping[str, Any]]) -> tuple[bytes, dict[int, str]]:
    """Return records as CSV in UTF-8 with the line ending LF, and the problems of those without a form: position → why.

    The table leaves out the records with a problem. A field that only some records have is an empty cell in the others.
    """
    rows: list[dict[str, str]] = []
    problems: dict[int, str] = {}
    for at, record in enumerate(records):
        try:
            rows.append(dict(_cells(record)))
        except (BadValueError, NotJsonError, UnicodeEncodeError) as error:
            problems[at] = "the text is not Unicode" if isinstance(error, UnicodeEncodeError) else str(error)
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(), problems


def read(body: bytes) -> list[dict[str, str]]:
    """Return the lines of a result, by column."""
    return list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline="")))


def cell(value: Any) -> str:
    """Return a value as Salesforce takes it in a cell.

    :raises BadValueError: the value is the text that stands for null.
    :raises NotJsonError: the value has no form.
    :raises UnicodeEncodeError: the text is not Unicode.
    """
    if value is None or value == "":
        return NULL
    if isinstance(value, str):
        value.encode()
        if value == NULL:
            raise BadValueError(f"Bulk API 2.0 takes the text {NULL} for null")
        return value
    text = dumps(value).decode()
    return text[1:-1] if text.startswith('"') else text


def plain_fields(record: Mapping[str, Any]) -> Generator[tuple[str, Any], None, None]:
    """Yield the fields of a record. A parent whose external id is null becomes null in the field that refers to it."""
    for name, value in record.items():
        if isinstance(value, list):
            yield name, ";".join(map(str, value))
        elif isinstance(value, Mapping) and all(value[part] is None for part in value if part != "attributes"):
            yield (f"{name.removesuffix('__r')}__c" if name.endswith("__r") else f"{name}Id"), None
        else:
            yield name, value


def _cells(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield header and cell of each field. Parents are named by their external id: ``Owner.ExternalId__c``.

    The header of a parent that may be of several types names the type, too: ``User:Owner.ExternalId__c``.
    """
    for name, value in plain_fields(record):
        if not isinstance(value, Mapping):
            yield name, cell(value)
            continue
        kind = (value.get("attributes") or {}).get("type")
        for part, inner in value.items():
            if part != "attributes":
                yield (f"{kind}:{name}.{part}" if kind else f"{name}.{part}"), cell(inner)
