"""Redaction: a remote's message without our secrets and the rows' values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: Longest message of a receipt, in characters.
MAX_MESSAGE = 300


def clean(message: str, secrets: Iterable[str], records: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a message on one line, of bounded length, without the secrets and the records' values.

    Values of one or two characters stay: every text contains them by chance, and they reveal nothing.
    """
    # Cut roughly first: a proxy may answer with a whole page.
    text = " ".join(message[: 10 * MAX_MESSAGE].split())
    lowered = text.lower()
    hidden = {value for value in (*secrets, *_values(records)) if len(value) > 2}
    found = [value for value in hidden if value.lower() in lowered]
    if found:
        # The longest first: a value may be part of another.
        found.sort(key=len, reverse=True)
        pattern = "|".join(re.escape(value) for value in found)
        text = re.sub(pattern, "…", text, flags=re.IGNORECASE)
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 1] + "…"
    return text


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = value.values()
    elif isinstance(value, bool) or value is None:
        return
    elif not isinstance(value, list | tuple):
        yield " ".join(str(value).split())
        return
    for item in value:
        yield from _values(item)
