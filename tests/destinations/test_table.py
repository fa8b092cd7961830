"""Destination type ``table``."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pytest
import sqlglot

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, SpecError, UnreachableError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome
from airflow_reverse_etl.sql.statements.write import Writer
from airflow_reverse_etl.sync.fields.inspection import mapping_problems
from airflow_reverse_etl.sync.ports import ConnectionInfo, DescribesFields, Destination
from airflow_reverse_etl.testing.conformance import DestinationConformance
from airflow_reverse_etl.testing.fakes import CountingLimiter
from tests.stores.warehouses import postgres_place

CREATE = "create table \"to table\" (id varchar primary key, name varchar check (name <> 'nobody at all'))"


def sync(mode: str = "upsert", *, mapping: Mapping[str, Any] | None = None, **destination: Any) -> Sync:
    return Sync.load(
        {
            "name": "rows",
            "model": "rows",
            "source": "warehouse",
            "mode": mode,
            "mapping": mapping or {"id": "id", "name": "name"},
            "destination": {
                "type": "table",
                "connection": "db",
                "object": '"to table"',
                "match_on": "id",
                **destination,
            },
        }
    )


class Database:
    """A table with a primary key and a check, in a file."""

    def __init__(self, dialect: str, path: Path) -> None:
        self.dialect = dialect
        self.path = path
        self.failure = ""
        self.execute(CREATE)

    def connect(self) -> Any:
        if self.failure:
            raise sqlite3.OperationalError(self.failure)
        return sqlite3.connect(self.path) if self.dialect == "sqlite" else duckdb.connect(str(self.path))

    def execute(self, sql: str) -> list[Any]:
        connection = self.connect()
        try:
            rows: list[Any] = connection.execute(sql).fetchall()
            connection.commit()
        finally:
            connection.close()
        return rows

    def create(self, mode: str) -> Destination:
        return create(sync(mode), connection=ConnectionInfo("db", self.dialect), connect=self.connect)

    async def stored(self) -> Mapping[str, str | None]:
        return dict(self.execute('select id, name from "to table"'))

    def bad(self) -> dict[str, Any]:
        return {"id": "bad", "name": "nobody at all"}

    def make_unique(self) -> None:
        self.execute('drop table "to table"')
        self.execute('create table "to table" (id varchar primary key, name varchar unique)')

    def revoke(self) -> None:
        self.failure = "password authentication failed"

    async def stop(self) -> None:
        self.failure = "unable to open database file"


@pytest.fixture(params=["sqlite", "duckdb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(request.param, tmp_path / "db")


class TestConformance(DestinationConformance):
    strict = True
    reports_conflicts = True
    replaces = True
    impossible: ClassVar = {
        "throttle": "a database does not say when to come back",
        "lose_answer": "a commit in this process has an answer; one that is lost is tested below",
    }

    @pytest.fixture
    def remote(self, database: Database) -> Database:
        return database


class Driver:
    """Wraps a connection. The named method fails once, like a driver's."""

    def __init__(self, connection: sqlite3.Connection, failing: dict[str, Exception]) -> None:
        self._connection = connection
        self._failing = failing

    def cursor(self) -> Any:
        return Cursor(self._connection.cursor(), self._failing)

    def close(self) -> None:
        self._connection.close()


class Cursor:
    def __init__(self, cursor: sqlite3.Cursor, failing: dict[str, Exception]) -> None:
        self._cursor = cursor
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str, *args: Any) -> Any:
        if error := self._failing.pop(sql.split()[0], None):
            raise error
        return self._cursor.execute(sql, *args)

    def executemany(self, sql: str, rows: Any) -> Any:
        if error := self._failing.pop("executemany", None):
            raise error
        return self._cursor.executemany(sql, rows)


BATCH = Batch(Operation.UPSERT, [1, 2], ["1", "2"], [{"id": "1", "name": "Ada"}, {"id": "2", "name": "Grace"}], "r")


@pytest.mark.parametrize(
    ("step", "outcome"),
    [("BEGIN", Outcome.RETRYABLE), ("executemany", Outcome.RETRYABLE), ("COMMIT", Outcome.UNKNOWN)],
)
async def test_only_a_failure_during_commit_leaves_the_outcome_unknown(
    tmp_path: Path, step: str, outcome: Outcome
) -> None:
    database = Database("sqlite", tmp_path / "db")
    failing: dict[str, Exception] = {}

    def connect() -> Driver:
        return Driver(sqlite3.connect(database.path), failing)

    destination = create(sync(), connection=ConnectionInfo("db", "sqlite"), connect=connect)
    await destination.open(CountingLimiter())
    try:
        failing[step] = sqlite3.OperationalError("server closed the connection, Grace")
        receipts = await destination.send(BATCH)
        assert receipts.of("1").outcome is receipts.of("2").outcome is outcome
        assert "Grace" not in receipts.default.message
        assert await database.stored() == {}
        assert (await destination.send(BATCH)).of("1").outcome is Outcome.ACCEPTED
    finally:
        await destination.close()


@pytest.mark.parametrize("change", [{"object": "missing"}, {"match_on": "name"}])
async def test_a_wrong_table_or_a_missing_constraint_is_reported_before_anything_is_sent(
    database: Database, change: dict[str, Any]
) -> None:
    destination = create(sync(**change), connection=ConnectionInfo("db", database.dialect), connect=database.connect)
    with pytest.raises(ConfigurationError) as caught:
        await destination.open(CountingLimiter())
    assert caught.value.where["connection"] == "db"


@pytest.mark.parametrize(("dialect", "problems"), [("sqlite", []), ("duckdb", []), ("postgres", ["mapping.ID"])])
async def test_a_column_in_another_case_is_found_where_the_database_finds_it(
    tmp_path: Path, dialect: str, problems: list[str]
) -> None:
    database = Database("sqlite", tmp_path / "db")
    spec = sync("append", mapping={"ID": "id"}, match_on=[], dialect=dialect)
    found = await problems_of_mapping(spec, database)
    assert [problem.partition(":")[0] for problem in found] == problems


async def test_the_check_of_the_mapping_names_the_column_that_was_meant(database: Database) -> None:
    [problem] = await problems_of_mapping(sync(mapping={"id": "id", "nmae": "name"}), database)
    assert problem == "mapping.nmae: field not found at the destination; did you mean 'name'?"


async def problems_of_mapping(spec: Sync, database: Database) -> list[str]:
    destination = create(spec, connection=ConnectionInfo("db", database.dialect), connect=database.connect)
    assert isinstance(destination, DescribesFields)
    await destination.open(CountingLimiter())
    try:
        return list(mapping_problems(spec, await destination.describe()))
    finally:
        await destination.close()


async def test_values_of_every_type_arrive(database: Database) -> None:
    database.execute(
        "create table kinds (id integer primary key, d decimal(18,3), seen timestamp, day date, obj varchar)"
    )
    mapping = {"id": "id", "d": "d", "seen": "seen", "day": "day", "obj.a": "a"}
    destination = create(
        sync(mapping=mapping, object="kinds"),
        connection=ConnectionInfo("db", database.dialect),
        connect=database.connect,
    )
    record = {
        "id": 1,
        "d": Decimal("1.100"),
        "seen": datetime.fromisoformat("2026-01-02T03:04:05"),
        "day": date(2026, 1, 2),
        "obj": {"a": [1]},
    }
    await destination.open(CountingLimiter())
    receipts = await destination.send(Batch(Operation.UPSERT, [1], ["1"], [record], "r"))
    await destination.close()
    assert receipts.of("1").outcome is Outcome.ACCEPTED
    [(_, d, seen, day, obj)] = database.execute("select * from kinds")
    assert (Decimal(str(d)), str(seen).replace("T", " "), str(day)) == (
        Decimal("1.1"),
        "2026-01-02 03:04:05",
        "2026-01-02",
    )
    assert obj == '{"a":[1]}'


async def test_rows_that_match_the_same_row_are_written_in_order(database: Database) -> None:
    """Write a batch with two rows of the same match_on, and with more rows than one statement takes."""
    destination = database.create("mirror")
    await destination.open(CountingLimiter())
    names = [*map(str, range(600)), "5", "5"]
    records = [{"id": key, "name": f"name {n}"} for n, key in enumerate(names)]
    keys = [f"k{n}" for n in range(len(names))]
    receipts = await destination.send(Batch(Operation.UPSERT, range(1, len(keys) + 1), keys, records, "r"))
    assert receipts.default.outcome is Outcome.ACCEPTED
    assert (await database.stored())["5"] == "name 601"
    await destination.send(Batch(Operation.DELETE, range(1, 600), keys[:599], records[:599], "r"))
    await destination.close()
    assert list(await database.stored()) == ["599"]


def test_without_match_on_only_inserts_are_possible() -> None:
    with pytest.raises(SpecError, match="match_on"):
        create(sync(match_on=()), connection=ConnectionInfo("db", "sqlite"), connect=lambda: None)
    create(sync("append", match_on=()), connection=ConnectionInfo("db", "sqlite"), connect=lambda: None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (sqlite3.OperationalError('FATAL: password authentication failed for user "etl" s3cret'), CredentialsError),
        (OSError("connection refused"), UnreachableError),
    ],
)
async def test_a_failure_to_connect_says_what_to_do(error: Exception, expected: type[Exception]) -> None:
    def connect() -> Any:
        raise error

    connection = ConnectionInfo("db", "postgres", password="s3cret")
    destination = create(sync(), connection=connection, connect=connect)
    with pytest.raises(expected) as caught:
        await destination.open(CountingLimiter())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "dialect", ["sqlite", "duckdb", "postgres", "mysql", "snowflake", "bigquery", "tsql", "redshift"]
)
@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("columns", [("id", "na%me"), ("id",)])
def test_statements_are_valid_in_their_dialect_and_quote_names(
    dialect: str, operation: Operation, columns: tuple[str, ...]
) -> None:
    writer = Writer(dialect, "qmark", "app.contacts", ("id",))
    for rows in (1, 3) if writer.takes_many and operation is not Operation.UPDATE else (1,):
        statement = writer.statement(operation, columns, rows=rows)
        sqlglot.parse_one(statement.sql, read=dialect)
        assert statement.sql.count("?") == len(statement.columns) * rows
    if operation in (Operation.UPSERT, Operation.INSERT):
        assert statement.columns == columns


@pytest.mark.parametrize(("style", "expected"), [("format", "na%%me"), ("qmark", "na%me"), ("numeric", "na%me")])
def test_parameters_are_marked_in_the_style_of_the_driver(style: str, expected: str) -> None:
    sql = Writer("postgres", style, "t", ("id",)).statement(Operation.INSERT, ("id", "na%me")).sql
    assert expected in sql
    assert sql.endswith({"format": "(%s, %s)", "qmark": "(?, ?)", "numeric": "(:1, :2)"}[style])


@pytest.mark.parametrize("name", ["t; drop table t", "select 1", "t join u", "t as u", ""])
def test_object_must_be_a_table_name(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Writer("postgres", "qmark", name, ("id",)).statement(Operation.INSERT, ("id",))


async def test_arrays_and_json_go_as_such_into_a_table(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with duckdb.connect(path) as connection:
        connection.execute("create table t (id int primary key, tags varchar[], ns int[], doc json)")
    values = sync(mapping={name: name for name in ("id", "tags", "ns", "doc")}, object="t")
    destination = create(values, connection=ConnectionInfo("db", "duckdb"), connect=lambda: duckdb.connect(path))
    assert not destination.capabilities.json, "the text of a JSON column is what a table takes"
    record = {"id": 1, "tags": ["a", None], "ns": [1, 2], "doc": ["x", {"y": 1}]}
    await destination.open(CountingLimiter())
    receipts = await destination.send(Batch(Operation.UPSERT, [1], ["1"], [record]))
    await destination.close()
    assert receipts.of("1").outcome is Outcome.ACCEPTED
    with duckdb.connect(path) as connection:
        assert connection.execute("select * from t").fetchall() == [(1, ["a", None], [1, 2], '["x",{"y":1}]')]


async def test_as_many_rows_go_in_a_statement_as_it_has_room_for(tmp_path: Path) -> None:
    """SQLite allows 32,766 values in a statement."""
    path = tmp_path / "db"
    names = ["id", *(f"c{at}" for at in range(300))]
    with sqlite3.connect(path) as connection:
        connection.execute(f"create table t ({', '.join(names)}, primary key (id))")
    wide = sync(mapping={name: name for name in names}, object="t")
    destination = create(wide, connection=ConnectionInfo("db", "sqlite"), connect=lambda: sqlite3.connect(path))
    records = [dict.fromkeys(names, at) for at in range(250)]
    await destination.open(CountingLimiter())
    receipts = await destination.send(Batch(Operation.UPSERT, range(250), [str(at) for at in range(250)], records))
    await destination.close()
    assert {receipts.of(str(at)).outcome for at in range(250)} == {Outcome.ACCEPTED}


#: Type of a column in Postgres → values as a record has them, and the text of what is stored.
IN_POSTGRES: dict[str, list[tuple[Any, str | None]]] = {
    "text[]": [
        (["a", None, 'b"\\,{}', ""], '{a,NULL,"b\\"\\\\,{}",""}'),
        ('["null", "ä"]', '{"null",ä}'),
        ([], "{}"),
        (None, None),
    ],
    "int[]": [([1, 2], "{1,2}"), ("[[1, 2], [3, 4]]", "{{1,2},{3,4}}")],
    "numeric[]": [([Decimal("1E+3"), Decimal("0E-8")], "{1000,0.00000000}"), ("[1.50]", "{1.50}")],
    "boolean[]": [([True, None], "{t,NULL}")],
    "float8[]": [([0.5, float("nan")], "{0.5,NaN}")],
    "timestamptz[]": [('["2026-01-31T12:00:00+02:00"]', '{"2026-01-31 10:00:00+00"}')],
    "date[]": [([date(2026, 1, 31)], "{2026-01-31}")],
    "bytea[]": [([b"\x00\xff"], '{"\\\\x00ff"}')],
    "jsonb[]": [([{"a": [1]}], '{"{\\"a\\": [1]}"}')],
    "jsonb": [({"a": [1, None]}, '{"a": [1, null]}'), ("[1]", "[1]"), (["a"], '["a"]')],
    "text": [(["a"], '["a"]'), ('["a"]', '["a"]')],
    "numeric": [(Decimal("0E-8"), "0.00000000"), (float("nan"), "NaN")],
}


@pytest.mark.parametrize("kind", IN_POSTGRES)
async def test_arrays_and_json_go_as_such_into_postgres(postgres: str, kind: str) -> None:
    place = postgres_place(postgres)
    place.run(f"create table t (id int primary key, v {kind})")
    place.run("create view stored as select id, cast(v as text) as v from t")
    values = sync(mapping={"id": "id", "v": "v"}, object="t")
    destination = create(values, connection=ConnectionInfo("db", "postgres"), connect=place.connect)
    records = [{"id": at, "v": value} for at, (value, _) in enumerate(IN_POSTGRES[kind])]
    await destination.open(CountingLimiter())
    keys = [str(at) for at in range(len(records))]
    receipts = await destination.send(Batch(Operation.UPSERT, range(len(records)), keys, records))
    await destination.close()
    assert {receipts.of(key).outcome for key in keys} == {Outcome.ACCEPTED}
    assert [text for _, text in place.run("select * from stored order by id")] == [
        text for _, text in IN_POSTGRES[kind]
    ]


async def test_text_that_is_not_a_list_is_refused_by_an_array_for_its_row_alone(postgres: str) -> None:
    place = postgres_place(postgres)
    place.run("create table t (id int primary key, v text[])")
    values = sync(mapping={"id": "id", "v": "v"}, object="t")
    destination = create(values, connection=ConnectionInfo("db", "postgres"), connect=place.connect)
    records = [{"id": 1, "v": "[not JSON"}, {"id": 2, "v": ["a"]}]
    await destination.open(CountingLimiter())
    whole = await destination.send(Batch(Operation.UPSERT, [1, 2], ["1", "2"], records))
    alone = await destination.send(Batch(Operation.UPSERT, [2], ["2"], records[1:]))
    await destination.close()
    assert whole.of("1").outcome is Outcome.REJECTED
    assert alone.of("2").outcome is Outcome.ACCEPTED
