"""Conditions that find one record in the tables of a state, which has hashes of keys and not always the keys."""

# ruff: noqa: S608 - this module builds SQL; names are fixed, numbers and constants are literals

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.quoting import literal

#: A digest: its two numbers.
Digest = tuple[int, int]

#: Form of a record's name: the hash of its identifier, as hexadecimal digits.
RECORD = re.compile(r"[0-9a-f]{32}")
_BITS = 64


@dataclass(frozen=True, slots=True)
class OneRecord:
    """A record by the primary key of its row, or by its identifier at the destination.

    :param key: text of the value; a JSON array of texts if it has several parts.
    :param by_identifier: ``key`` is the value of ``match_on``, whose parts are in the order of the fields' names. It
        is found in the form in which the destination compares it, with upper and lower case apart or not.
    :param dialect: of the state's database.
    :param collation: collation that may have lowered identifiers, in addition to the database's own.
    """

    key: str
    by_identifier: bool
    dialect: str
    collation: str = ""

    def digests(self) -> str:
        """Return the SELECT of all digests that the key may have."""
        dialect = PLANNERS[self.dialect]
        selects = []
        for texts in self._forms():
            digest = dialect.digest.format(x=dialect.prefix_code(texts))
            selects.append(
                f"SELECT {dialect.high.format(h='d')} AS hi, {dialect.low.format(h='d')} AS lo"
                f" FROM (SELECT {digest} AS d) AS digests"
            )
        return " UNION ALL ".join(selects)

    def in_snapshot(self, digests: Iterable[Digest]) -> str:
        """Return the condition for the record's row in the snapshot.

        :param digests: result of :meth:`digests`.
        """
        if self.by_identifier:
            return self.anywhere(digests)
        # Without match_on, the record's digest is that of the primary key.
        rows = [f"(row_hi = {hi} AND row_lo = {lo})" for hi, lo in digests]
        keys = [f"(row_hi IS NULL AND key_hi = {hi} AND key_lo = {lo})" for hi, lo in digests]
        return " OR ".join([self._named, *rows, *keys])

    def anywhere(self, digests: Iterable[Digest]) -> str:
        """Return the condition for all rows about the record, in every table.

        :param digests: the record's, as the snapshot has them; those of :meth:`digests` if it is given by identifier.
        """
        records = [f"(key_hi = {hi} AND key_lo = {lo})" for hi, lo in digests]
        return " OR ".join([*([] if self.by_identifier else [self._named]), *records])

    @property
    def _named(self) -> str:
        return f"row_key = {literal(self.key, self.dialect)}"

    def _forms(self) -> list[list[str]]:
        """Return the texts, as SQL, that a digest of the key may be made of."""
        keys = [[literal(self.key, self.dialect)]]
        if parts := _parts(self.key):
            keys.append([literal(part, self.dialect) for part in parts])
        if not self.by_identifier:
            return keys
        trimmed = [self._trimmed(texts) for texts in keys]
        lowered = [self._lowered(texts, "") for texts in trimmed]
        if self.collation:
            lowered += [self._lowered(texts, self.collation) for texts in trimmed]
        return [*trimmed, *lowered, *keys]

    def _trimmed(self, texts: Sequence[str]) -> list[str]:
        dialect = PLANNERS[self.dialect]
        return [dialect.trimmed.format(x=text) for text in texts]

    def _lowered(self, texts: Sequence[str], collation: str) -> list[str]:
        dialect = PLANNERS[self.dialect]
        return [dialect.lowered(text, collation) for text in texts]


@dataclass(frozen=True, slots=True)
class NamedRecords:
    """Records by their names, which are hashes: who names a record so need not know its key.

    :param names: of :func:`record_name`; None for every record.
    """

    names: tuple[str, ...] | None

    @property
    def by_identifier(self) -> bool:
        """False: nothing has to be hashed to find the records."""
        return False

    def anywhere(self, digests: Iterable[Digest]) -> str:  # noqa: ARG002 - as OneRecord has it
        """Return the condition for all rows about the records, in every table."""
        if self.names is None:
            return "1 = 1"
        pairs = map(_digest_of, self.names)
        return " OR ".join(f"(key_hi = {hi} AND key_lo = {lo})" for hi, lo in pairs) or "1 = 0"

    def digests(self) -> str:
        """Return no statement; see :attr:`by_identifier`."""
        raise NotImplementedError


def record_name(hi: int, lo: int) -> str:
    """Return the name of the record with this digest."""
    mask = (1 << _BITS) - 1
    return f"{hi & mask:016x}{lo & mask:016x}"


def _digest_of(name: str) -> Digest:
    return _signed(name[:16]), _signed(name[16:])


def _signed(text: str) -> int:
    number = int(text, 16)
    return number - (1 << _BITS) if number >= 1 << (_BITS - 1) else number


def _parts(key: str) -> list[str]:
    """Return the parts of a key that is a JSON array of texts; an empty list if it is not one."""
    try:
        parts = json.loads(key)
    except ValueError:
        return []
    is_list = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
    return parts if is_list else []
