"""Bodies of requests: JSON, JSON lines, forms and multipart forms, made from the items of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps, dumps_rows
from airflow_reverse_etl.spec.receipts import digest

#: Formats of a request's body.
BodyFormat = Literal["json", "ndjson", "form", "multipart", "none"]


class Body(NamedTuple):
    """The body of a request.

    :param content: None for a request without one.
    :param content_type: media type, if it is not ``application/json``.
    :param problems: positions of the items that have no such form, and why. The body leaves them out.
    """

    content: bytes | None = None
    content_type: str = ""
    problems: Mapping[int, str] = {}


#: Function that makes the body of a request from its items.
Encoder = Callable[[Sequence[Any]], Body]


def encoder(body: BodyFormat, *, single: bool, records: str, envelope: Mapping[str, Any]) -> Encoder:
    """Return the function that encodes the items of a request.

    :param single: the request carries one item by itself, not a list.
    :param records: dotted field of the body that holds the items; empty if they are the body.
    :param envelope: other fields of the body.
    :raises ValueError: the envelope already has a value at the place of the items.
    """
    before, after = wrapping(records, envelope)
    match body:
        case "none":
            return lambda _: Body()
        case "ndjson":
            return _ndjson
        case "form" | "multipart":
            write = _urlencoded if body == "form" else _multipart
            return lambda items: _form(items, write, single=single, records=records, envelope=envelope)
    return lambda items: _json(items, single=single, before=before, after=after)


def wrapping(records: str, envelope: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the bytes of a JSON body before and after its items.

    :raises ValueError: the envelope already has a value at the place of the items.
    """
    if not records:
        return b"", b""
    mark = "@records@"
    body = {**envelope}
    # Descend to the records' place on copies of the objects, which are shared with the options.
    level = body
    *parents, leaf = records.split(".")
    for parent in parents:
        inner = level.pop(parent, {})
        if not isinstance(inner, Mapping):
            raise ValueError(f"envelope: {parent!r} must be an object, as the records go inside it")
        copy = {**inner}
        level[parent] = copy
        level = copy
    if leaf in level:
        raise ValueError(f"envelope: {records!r} already has a value, but the records go there")
    # Encode the body with a mark for the records, and cut it there.
    level[leaf] = mark
    before, _, after = dumps(body).partition(dumps(mark))
    return before, after


def _json(items: Sequence[Any], *, single: bool, before: bytes, after: bytes) -> Body:
    problems: dict[int, str] = {}
    if not single:
        data, problems = dumps_rows(items)
    else:
        try:
            data = dumps(items[0])
        except NotJsonError as error:
            return Body(problems={0: str(error)})
    return Body(before + data + after, "", problems)


def _ndjson(items: Sequence[Any]) -> Body:
    lines: list[bytes] = []
    problems: dict[int, str] = {}
    for position, item in enumerate(items):
        try:
            lines.append(dumps(item) + b"\n")
        except NotJsonError as error:
            problems[position] = str(error)
    return Body(b"".join(lines), "application/x-ndjson", problems)


def _form(
    items: Sequence[Any],
    write: Callable[[Sequence[tuple[str, str]]], tuple[bytes, str]],
    *,
    single: bool,
    records: str,
    envelope: Mapping[str, Any],
) -> Body:
    """Return a form with the fields of one item, or with one field that holds all items as a JSON array."""
    fields = list(_fields(envelope))
    problems: dict[int, str] = {}
    if single:
        try:
            fields += _fields(items[0], records)
        except NotJsonError as error:
            return Body(problems={0: str(error)})
    else:
        array, problems = dumps_rows(items)
        fields.append((records, array.decode()))
    content, content_type = write(fields)
    return Body(content, content_type, problems)


def _urlencoded(fields: Sequence[tuple[str, str]]) -> tuple[bytes, str]:
    return urlencode(fields).encode(), "application/x-www-form-urlencoded"


def _multipart(fields: Sequence[tuple[str, str]]) -> tuple[bytes, str]:
    from urllib3.filepost import encode_multipart_formdata

    # The same fields make the same body, which an idempotency key is computed from.
    boundary = digest(*(part for field in fields for part in field))
    return encode_multipart_formdata(fields, boundary)


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a form: an object's as ``name[field]``, a list's as ``name[0]``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _fields(inner, f"{name}[{key}]" if name else str(key))
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _fields(inner, f"{name}[{position}]")
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    """Return a value as the text that JSON has for it; null is empty."""
    if value is None:
        return ""
    return value if isinstance(value, str) else dumps(value).decode().strip('"')
