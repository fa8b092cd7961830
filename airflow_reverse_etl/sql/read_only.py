"""Nothing but one SELECT reaches a database: by its tree where sqlglot knows the SQL, by its words where it does not.

What a function does when it is called, as Postgres' ``pg_terminate_backend``, is a matter of the connection's rights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.model import Sync

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.tokenizer_core import Token

_BEGINS = ("SELECT", "WITH", "L_PAREN", "VALUES", "FROM", "TABLE")

#: What no statement that only reads has, in the words that :func:`_words` gives. Names of columns may be among them,
#: so these are asked only where sqlglot does not know the SQL.
_WRITES = (
    r"\b(INSERT) (?:INTO|OVERWRITE) ",
    # in a common table expression, or the table of Db2's FINAL TABLE
    r"\( (DELETE) FROM ",
    r"\( (MERGE) INTO ",
    r'\( (UPDATE) [\w"][^()]* SET [\w"]',
    # after the common table expressions, or a pipe
    r'[)>] (DELETE|UPDATE|INSERT|MERGE|REPLACE|CREATE|EXPORT) [\w"]',
    # DuckDB's UNPIVOT … INTO NAME makes columns
    r'\b(INTO) (?!NAME [\w"]+ VALUE )',
)
_LOCKS = r"\b(FOR (?:NO KEY )?UPDATE|FOR (?:KEY )?SHARE|LOCK IN SHARE MODE) "

#: Of dialects with ways of their own to more than one SELECT, that sqlglot takes for something else.
_OWN_WAYS = {
    # a statement needs no semicolon before it, and these words are reserved: no column is called so
    ("tsql", "fabric"): (
        r"\b(ALTER|BACKUP|BEGIN|CHECKPOINT|COMMIT|CREATE|DBCC|DECLARE|DELETE|DENY|DROP|EXEC|EXECUTE|GRANT|INSERT|KILL"
        r"|MERGE(?! (?:JOIN|UNION) )|RECONFIGURE|RESTORE|REVOKE|ROLLBACK|SET|SHUTDOWN|TRUNCATE|UPDATE|WAITFOR) "
    ),
    # the flow operator runs one statement after the other; it is no operator on JSON there
    ("snowflake",): r"(->>) ",
    # comments whose text is executed
    ("mysql", "doris", "singlestore", "starrocks"): r"(/\*M?!)",
}


def single_select(query: str, source: str, sync: Sync) -> str:
    """The query without a closing semicolon.

    :param source: the dialect it is written in.
    :raises SpecError: it is not one SELECT that only reads.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        tokens = sqlglot.tokenize(query, read=source)
    except SqlglotError as error:
        raise _refused(str(error).splitlines()[0], sync) from None
    kinds = [token.token_type.name for token in tokens]
    ends = [at for at, kind in enumerate(kinds) if kind == "SEMICOLON"]
    last = ends[0] if ends else len(tokens)
    if not tokens or not last:
        raise _refused("it is empty", sync)
    if len(ends) < len(kinds) - last:
        raise _refused("it has several statements", sync)
    if kinds[0] not in _BEGINS or not _balanced(kinds[:last]):
        raise _refused("it is not a SELECT", sync)
    body = query[: tokens[last].start] if ends else query
    found = _own_ways(tokens[:last], source) or _more_than_read(body, tokens[:last], source)
    if found:
        raise _refused(f"it does more than read: {found}", sync)
    return body


def files_closed(**where: object) -> ConfigurationError:
    """The error for a model in DuckDB that reads or writes files, which it may not by default."""
    return ConfigurationError(
        "the model reads or writes files, or views over files, which is turned off for DuckDB",
        todo="load the files into tables, or set [reverse_etl] duckdb_external_access to True for all syncs",
        **where,
    )


def written(tree: exp.Expr) -> str:
    """What in a tree writes, locks rows, or is a statement other than SELECT; empty if nothing is."""
    from sqlglot import exp

    statements = (
        *(exp.DML, exp.DDL, exp.Command, exp.MultitableInserts, exp.Into, exp.Lock, exp.Drop, exp.Alter),
        *(exp.TruncateTable, exp.LoadData, exp.Set, exp.Use, exp.Pragma, exp.Attach, exp.Detach, exp.Kill),
        *(exp.Grant, exp.Transaction, exp.Commit, exp.Rollback, exp.Cache, exp.Uncache, exp.Comment),
    )
    found = tree.find(*statements)
    if found is None:
        return ""
    name = found.name if isinstance(found, exp.Command) else type(found).__name__
    return {"LOCK": "a locking clause", "MULTITABLEINSERTS": "INSERT"}.get(name.upper(), name.upper())


def _more_than_read(body: str, tokens: Sequence[Token], source: str) -> str:
    """What a statement does besides reading."""
    import sqlglot
    from sqlglot import exp

    try:
        trees = sqlglot.parse(body, read=source)
    except Exception:  # noqa: BLE001 - beside its own errors, sqlglot's bugs: SQL that it does not know
        return _first(tokens, *_WRITES, _LOCKS)
    found = next(filter(None, map(written, filter(None, trees))), "")
    if found or all(isinstance(tree, exp.Query | exp.Values) for tree in trees):
        return found
    return _first(tokens, *_WRITES, _LOCKS)


def _own_ways(tokens: Sequence[Token], source: str) -> str:
    return next((_first(tokens, way) for dialects, way in _OWN_WAYS.items() if source in dialects), "")


def _first(tokens: Sequence[Token], *patterns: str) -> str:
    """The first group of the first pattern that the tokens match; empty if none does."""
    text = "".join(f"{word} " for word in _words(tokens))
    matches = (re.search(pattern, text) for pattern in patterns)
    return next((match[1] for match in matches if match), "")


def _words(tokens: Sequence[Token]) -> Iterator[str]:
    """Tokens in upper case: quoted names as ``"``, constants as ``'``; of comments, those that MySQL executes."""
    for token in tokens:
        kind = token.token_type.name
        if kind == "IDENTIFIER":
            yield '"'
        elif kind.endswith("STRING"):
            yield "'"
        else:
            yield token.text.upper()
        for comment in token.comments:
            if comment.startswith(("!", "M!")):
                yield "/*" + comment[:2]


def _balanced(kinds: Sequence[str]) -> bool:
    """No parenthesis closes what the query did not open."""
    depths = list(accumulate({"L_PAREN": 1, "R_PAREN": -1}.get(kind, 0) for kind in kinds))
    return min(depths) >= 0 and depths[-1] == 0


def _refused(reason: str, sync: Sync) -> SpecError:
    return SpecError(f"the model's query cannot be used: {reason}", todo="give one SELECT statement", sync=sync.name)
