"""Redaction: a remote's message without our secrets and the rows' values."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

#: Longest message of a receipt, in characters.
MAX_MESSAGE = 300
#: Replacement of a secret.
MASK = "…"
# Characters of a line that cannot be in a text by chance.
_LONG_LINE = 16


def clean(message: str, secrets: Iterable[str], records: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a message on one line, of bounded length, without the secrets and the records' values.

    Both are also found where the remote encoded them: in a URL, in JSON, in HTML, a secret in Base64 as well. Values
    of one or two characters stay: every text contains them by chance, and they reveal nothing.
    """
    # Cut roughly first: a proxy may answer with a whole page.
    text = " ".join(message[: 10 * MAX_MESSAGE].split())
    lowered = text.lower()
    hidden = {form for value in _values(records) for form in _encoded(value, text)}
    for secret in secrets:
        hidden.update(secret_forms(secret, text))
    found = [value for value in hidden if len(value) > 2 and value.lower() in lowered]
    if found:
        # The longest first: a value may be part of another.
        found.sort(key=len, reverse=True)
        pattern = "|".join(re.escape(value) for value in found)
        text = re.sub(pattern, "…", text, flags=re.IGNORECASE)
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 1] + "…"
    return text


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return a text of ours with each secret in it masked, in every form in which it may be there."""
    for secret in secrets:
        for form in sorted(set(secret_forms(secret, text)), key=len, reverse=True):
            if len(form) > 2:
                text = text.replace(form, MASK)
    return text


def secret_forms(secret: str, text: str) -> Iterator[str]:
    """Yield the forms in which a secret may be part of a text: as it is, encoded, and each long line of it."""
    yield secret
    yield from _encoded(secret, text)
    yield from _in_base64(secret)
    for line in secret.splitlines():
        # The lines of a key are secrets of their own; its first and last are not.
        if len(line.strip()) >= _LONG_LINE and not line.startswith("-----"):
            yield line.strip()


def _encoded(value: str, text: str) -> Iterator[str]:
    """Yield the forms in which a value may be part of a text, as far as the text has signs of an encoding."""
    yield " ".join(value.split())
    if "%" in text:
        yield quote(value, safe="")
        yield quote(value)
    if "+" in text:
        yield quote_plus(value)
    if "\\" in text:
        yield json.dumps(value)[1:-1]
        yield json.dumps(value, ensure_ascii=False)[1:-1]
    if "&" in text:
        yield html.escape(value)
        yield html.escape(value).replace("&#x27;", "&#39;")


def _in_base64(secret: str) -> Iterator[str]:
    """Yield the characters that a secret always has inside a longer Base64 text, at each of its three positions."""
    data = secret.encode()
    if len(data) < 6:
        return
    for offset in range(3):
        encoded = b64encode(bytes(offset) + data).decode().rstrip("=")
        # The characters at both ends also hold bits of what is before and after.
        first = (offset * 8 + 5) // 6
        yield encoded[first : len(encoded) - 1]
        yield encoded[first : len(encoded) - 1].replace("+", "-").replace("/", "_")


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = value.values()
    elif isinstance(value, bool) or value is None:
        return
    elif not isinstance(value, list | tuple):
        yield str(value)
        return
    for item in value:
        yield from _values(item)
