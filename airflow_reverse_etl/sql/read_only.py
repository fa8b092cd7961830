"""Check that a query is one SELECT that only reads.

The check uses the syntax tree if sqlglot can parse the SQL, and patterns of words if it cannot. It ignores side effects
of functions, such as Postgres' ``pg_terminate_backend``: the connection's rights must exclude them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sql.dialects.registry import dialect_of

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.tokenizer_core import Token

_BEGINS = ("SELECT", "WITH", "L_PAREN", "VALUES", "FROM", "TABLE")

#: Patterns that no reading statement matches, over the text of :func:`_words`. A column's name may match by chance, so
#: they apply only if sqlglot cannot parse the SQL.
_WRITES = (
    r"\b(INSERT) (?:INTO|OVERWRITE) ",
    # in a common table expression, or in Db2's FINAL TABLE
    r"\( (DELETE) FROM ",
    r"\( (MERGE) INTO ",
    r'\( (UPDATE) [\w"][^()]* SET [\w"]',
    # after common table expressions, or after a pipe
    r'[)>] (DELETE|UPDATE|INSERT|MERGE|REPLACE|CREATE|EXPORT) [\w"]',
    # but not DuckDB's UNPIVOT … INTO NAME, which names columns
    r'\b(INTO) (?!NAME [\w"]+ VALUE )',
)
_LOCKS = r"\b(FOR (?:NO KEY )?UPDATE|FOR (?:KEY )?SHARE|LOCK IN SHARE MODE) "


#: Beginning of what Airflow or dbt would render. A text may hold braces of its own, such as a template of the
#: destination's, so in quotes only the names that Airflow and dbt know count.
_JINJA = re.compile(r"\{\{|\{%")
_JINJA_IN_TEXT = re.compile(
    r"\{[{%][-+]?\s*(?:(?:ds|ts|(?:ds|ts)_nodash|run_id|logical_date|execution_date|data_interval_\w+|dag_run|dag|params|"
    r"macros|ti|task_instance|task|prev_\w+|next_\w+|conn|if|for|set)\b|(?:ref|source|config|var|env_var|this)\b)"
)


def jinja_problem(query: str, source: str) -> str:
    """Return why SQL with a Jinja template cannot be used; empty without one.

    :param source: the query's dialect.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    if not _JINJA.search(query):
        return ""
    try:
        tokens = sqlglot.tokenize(query, read=source)
    except SqlglotError:
        return ""  # a later step parses the query, and reports that
    before = ""
    for token in tokens:
        kind = token.token_type.name
        quoted = kind == "IDENTIFIER" or kind.endswith("STRING")
        # some dialects have a token for the first brace alone
        found = _JINJA_IN_TEXT.search(token.text) if quoted else _JINJA.search(before + token.text)
        if found:
            return "it has a Jinja template, such as {{ ds }}, which nobody renders"
        before = "" if quoted else token.text
    return ""


def single_select(query: str, source: str, sync: Sync) -> str:
    """Return the query without a closing semicolon.

    :param source: the query's dialect.
    :raises SpecError: the query is not one SELECT that only reads.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        tokens = sqlglot.tokenize(query, read=source)
    except SqlglotError as error:
        raise _refused(str(error).splitlines()[0], sync) from None

    if problem := jinja_problem(query, source):
        todo = "write plain SQL, or set templated: true, so that Airflow renders it"
        raise _refused(problem, sync, todo)

    # only semicolons may follow the first semicolon
    kinds = [token.token_type.name for token in tokens]
    ends = [at for at, kind in enumerate(kinds) if kind == "SEMICOLON"]
    last = ends[0] if ends else len(tokens)
    if not tokens or not last:
        raise _refused("it is empty", sync)
    if len(ends) < len(kinds) - last:
        raise _refused("it has several statements", sync)

    # the statement itself must begin like a SELECT, and only read
    if kinds[0] not in _BEGINS or not _balanced(kinds[:last]):
        raise _refused("it is not a SELECT", sync)
    body = query[: tokens[last].start] if ends else query
    found = _dialect_write(tokens[:last], source) or _write(body, tokens[:last], source)
    if found:
        raise _refused(f"it does more than read: {found}", sync)
    return body


def files_closed(**where: object) -> ConfigurationError:
    """Build the error for a DuckDB model that reads or writes files, which is off by default."""
    return ConfigurationError(
        "the model reads or writes files, or views over files, which is off for DuckDB",
        todo="load the files into tables, or set [reverse_etl] duckdb_external_access to True for all syncs",
        **where,
    )


def writing_part(tree: exp.Expr) -> str:
    """Return the name of a part that writes, locks rows, or is a statement other than SELECT; empty without one."""
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


def _write(body: str, tokens: Sequence[Token], source: str) -> str:
    """Return the words of a statement that do more than read; empty without any."""
    import sqlglot
    from sqlglot import exp

    try:
        trees = sqlglot.parse(body, read=source)
    except Exception:  # noqa: BLE001 - its own errors, and its bugs: SQL that sqlglot cannot parse
        return _first_match(tokens, *_WRITES, _LOCKS)
    for tree in filter(None, trees):
        if part := writing_part(tree):
            return part
    if all(isinstance(tree, exp.Query | exp.Values) for tree in trees):
        return ""
    return _first_match(tokens, *_WRITES, _LOCKS)


def _dialect_write(tokens: Sequence[Token], source: str) -> str:
    """Return the words that match the dialect's own pattern; empty without a match."""
    pattern = dialect_of(source).more_than_select
    return _first_match(tokens, pattern) if pattern else ""


def _first_match(tokens: Sequence[Token], *patterns: str) -> str:
    """Return the first group of the first pattern that the tokens match; empty without a match."""
    text = "".join(f"{word} " for word in _words(tokens))
    for pattern in patterns:
        if match := re.search(pattern, text):
            return match[1]
    return ""


def _words(tokens: Sequence[Token]) -> Iterator[str]:
    """Yield tokens in upper case: quoted names as ``"``, constants as ``'``, and the comments that MySQL executes."""
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
    """Return whether every parenthesis that is closed was opened before, and the reverse."""
    depths = list(accumulate({"L_PAREN": 1, "R_PAREN": -1}.get(kind, 0) for kind in kinds))
    return min(depths) >= 0 and depths[-1] == 0


def _refused(reason: str, sync: Sync, todo: str = "write one SELECT statement") -> SpecError:
    return SpecError(f"the model's query cannot be used: {reason}", todo=todo, sync=sync.name)
