"""SQLite."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect, ErrorKind

SQLITE = Dialect(
    name="sqlite",
    aliases=("sqlite3",),
    autocommits=True,
    explains=True,
    upsert="ON CONFLICT",
    stores_as_text=True,
    unique_constraints="""
        SELECT l.name, FALSE, c.name, t."notnull" = 0
        FROM pragma_index_list({name}) AS l, pragma_index_info(l.name) AS c
        LEFT JOIN pragma_table_info({name}) AS t ON t.name = c.name
        WHERE l."unique" AND NOT l.partial
        ORDER BY l.name, c.seqno
    """,
    references="""
        SELECT DISTINCT m.name FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
        WHERE m.type = 'table' AND LOWER(f."table") = LOWER({name}) AND LOWER(m.name) <> LOWER({name})
        ORDER BY 1
    """,
    unique_violations=(r"^UNIQUE constraint failed: (?:index ')?([^']+)",),
    error_words={"no such table": ErrorKind.MISSING},
    # https://www.sqlite.org/rescode.html
    error_codes={
        "SQLITE_ERROR": ErrorKind.WRONG,
        "SQLITE_READONLY": ErrorKind.DENIED,
        "SQLITE_BUSY": ErrorKind.CONFLICT,
        "SQLITE_LOCKED": ErrorKind.CONFLICT,
        "SQLITE_CONSTRAINT_PRIMARYKEY": ErrorKind.UNIQUE,
        "SQLITE_CONSTRAINT_UNIQUE": ErrorKind.UNIQUE,
        "SQLITE_CONSTRAINT_ROWID": ErrorKind.UNIQUE,
    },
)
