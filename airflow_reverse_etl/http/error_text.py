"""Code and message of an error, in the API's own words. Pure.

The forms of a body that are read: an object with the usual fields; RFC 9457 (``application/problem+json``); JSON:API's
list ``errors``; a list of texts; Rails' object of lists by field; XML as SOAP and S3 write it; HTML; plain text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_reverse_etl.http.messages import Reply, value_at

#: Paths at which JSON APIs usually put an error's code, the most specific first; likewise its message.
_CODE_PATHS = ("code", "error.code", "errorCode", "error_code", "errors.0.code", "0.errorCode", "0.code", "category")
_MESSAGE_PATHS = (
    "message",
    "error.message",
    "errorMessage",
    "error_description",
    "detail",
    "title",
    "0.message",
    "msg",
    "description",
)
_MESSAGE_FIELDS = ("message", "detail", "title", "description", "error")
#: Number of messages that are quoted from a list of errors.
_MAX_MESSAGES = 3
_XML_CODES = ("faultcode", "exceptionCode", "Code", "code")
_XML_MESSAGES = ("faultstring", "exceptionMessage", "Message", "message", "title")
#: Part of a body that is not JSON which is read, in bytes.
_TEXT_BYTES = 20_000


def error_text(reply: Reply) -> tuple[str, str]:
    """Return an error's code and message; empty texts if not found."""
    answer = reply.json()
    if answer is not None:
        return _json_code(answer), _json_message(answer)
    text = reply.body[:_TEXT_BYTES].decode(errors="replace").strip()
    if text.startswith("<"):
        return _element(text, _XML_CODES), _element(text, _XML_MESSAGES)
    return "", text


def _json_code(answer: Any) -> str:
    if code := _first_text(answer, _CODE_PATHS):
        return code
    # OAuth2 and many others have a code here, some a sentence.
    error = value_at(answer, ("error",))
    return error if isinstance(error, str) and " " not in error else ""


def _json_message(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    listed = value_at(answer, ("errors",))
    if listed is None:
        listed = answer if isinstance(answer, list) else value_at(answer, ("error", "errors"))
    messages = list(_messages(listed)) if listed else []
    if messages:
        more = [f"and {len(messages) - _MAX_MESSAGES} more"] if len(messages) > _MAX_MESSAGES else []
        return "; ".join(messages[:_MAX_MESSAGES] + more)
    if message := _first_text(answer, _MESSAGE_PATHS):
        return message
    error = value_at(answer, ("error",))
    return error if isinstance(error, str) else ""


def _messages(listed: Any) -> Iterator[str]:
    """Yield the messages of a list of texts, a list of objects, or an object with a text or a list for each field."""
    if isinstance(listed, str):
        yield listed
    elif isinstance(listed, list):
        for entry in listed:
            if isinstance(entry, str):
                yield entry
            elif message := _first_text(entry, _MESSAGE_FIELDS):
                yield message
    elif isinstance(listed, Mapping):
        for field, problems in listed.items():
            for problem in _messages(problems):
                yield f"{field} {problem}"


def _first_text(answer: Any, paths: tuple[str, ...]) -> str:
    for path in paths:
        value = value_at(answer, path.split("."))
        if isinstance(value, str | int) and value != "":
            return str(value)
    return ""


def _element(text: str, names: tuple[str, ...]) -> str:
    """Return the text of the first element with one of the names, whatever its namespace."""
    for name in names:
        found = re.search(rf"<(?:\w+:)?{name}\b[^>]*>([^<]+)<", text)
        if found:
            return html.unescape(found[1]).strip()
    return ""
