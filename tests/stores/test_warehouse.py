"""State as tables in a warehouse: names, privileges, leftovers, and the SQL of warehouses that we cannot run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, RunConflictError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.stores.warehouse.database import Database
from airflow_reverse_etl.stores.warehouse.plans import run_of
from airflow_reverse_etl.stores.warehouse.schema import NOTHING_YET, OWN, SHARED, Tables, prefix
from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
from airflow_reverse_etl.sync.ports import Plan, PlanRequest
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse
from tests.property import examples
from tests.stores.warehouses import Place, duckdb_place, postgres_place

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOLDEN = Path(__file__).parent / "golden"
DOCUMENTED = Path(__file__).parents[2] / "docs" / "reference" / "state-tables.md"


def sync_of(mode: str = "mirror", **more: Any) -> Sync:
    values = {"mapping": {"email": "email"}, "destination": {"type": "file", "match_on": "email"}, **more}
    return Sync.load({"name": "Of-It.1", "model": "m", "source": "w", "mode": mode, **values})


@pytest.fixture(params=["duckdb", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    place = duckdb_place() if request.param == "duckdb" else postgres_place(request.getfixturevalue("postgres"))
    place.run("CREATE TABLE m (id BIGINT, email TEXT)", "INSERT INTO m VALUES (1, 'a@example.com'), (2, 'secret')")
    return place


@contextmanager
def stored(place: Place, **more: Any) -> Iterator[WarehouseStore]:
    store = place.store(**more)
    yield store
    store.close()


def run(place: Place, store: WarehouseStore, *, day: int = 0, reject: str = "", commit: bool = True) -> None:
    warehouse = place.open_warehouse()
    request = PlanRequest(sync_of(), "SELECT * FROM m", ("id",), f"run{day}", NOW + timedelta(days=day))
    plan = store.plan(request, warehouse)
    warehouse.close()
    checkpoint = Checkpoint(announced=plan.total)
    if plan.total:
        checkpoint.settled.add(1, plan.total)
    for batch in store.changes(plan):
        for row in batch.to_pylist():
            if row["key"] == reject:
                checkpoint.fail(row["seq"], Receipt(Outcome.REJECTED, "bad", "it's \\ 100% 'wrong'"))
    if commit:
        store.commit(plan, checkpoint, RunReport(plan.run_id, plan.planned, plan.total, 0, 0, 0, 0, 1, 0.5), sync_of())


def tables(place: Place) -> set[str]:
    rows = place.run("SELECT table_name FROM information_schema.tables WHERE table_schema = 'reverse_etl'")
    return {name for (name,) in rows}


def permanent() -> set[str]:
    """Names of the tables that stay."""
    return {*SHARED, *(f"{prefix('Of-It.1')}_{name}" for name in OWN)}


def test_what_is_left_of_a_run_are_the_documented_tables_and_no_value(place: Place) -> None:
    with stored(place, change_log=True) as store:
        run(place, store, commit=False)
        assert any("changes" in name for name in tables(place))
        run(place, store, day=3, reject="2")  # the first plan is in the way of nothing
        own = prefix("Of-It.1")
        [unfinished] = store.unfinished("Of-It.1")
        store.discard(unfinished)
        assert tables(place) == permanent()
        for name in tables(place) - {f"{own}_snapshot"}:
            assert "secret" not in str(place.run(f"SELECT * FROM reverse_etl.{name}")), name
        assert place.run(f"SELECT row_key, code, message, attempts FROM reverse_etl.{own}_rejections") == [
            ("2", "bad", "it's \\ 100% 'wrong'", 1)
        ]
        log = "SELECT change, row_key, outcome, code FROM reverse_etl.change_log ORDER BY row_key"
        assert place.run(log) == [("added", "1", "accepted", None), ("added", "2", "rejected", "bad")]


def test_tables_are_as_documented(place: Place) -> None:
    """docs/reference/state-tables.md names every column, with its type, of every permanent table."""
    with stored(place) as store:
        run(place, store)
        store.register_writer("Of-It.1", "crm contacts", NOW)
    documented = {
        name: dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE))
        for name, text in re.findall(r"(?ms)^## `(?:<sync>_)?(\w+)`\n(.*?)(?=^## |\Z)", DOCUMENTED.read_text())
    }
    types = {
        "text": "text",
        "varchar": "text",
        "bigint": "integer",
        "double precision": "number",
        "double": "number",
        "timestamp with time zone": "instant",
    }
    own = prefix("Of-It.1")
    real: dict[str, dict[str, str]] = {}
    columns = "SELECT table_name, column_name, data_type FROM information_schema.columns"
    for table, column, kind in place.run(f"{columns} WHERE table_schema = 'reverse_etl'"):
        real.setdefault(table.removeprefix(f"{own}_"), {})[column] = types[kind.lower()]
    assert documented == real


def test_runs_are_kept_as_long_as_asked(place: Place) -> None:
    with stored(place, history=timedelta(days=2)) as store:
        for day in range(5):
            run(place, store, day=day)
        assert [row[0] for row in place.run("SELECT run_id FROM reverse_etl.runs ORDER BY run_id")] == [
            "run2",
            "run3",
            "run4",
        ]


def test_one_of_many_takes_a_lease(place: Place) -> None:
    """This holds for the first lease too, and does not rely on a warehouse's count of changed rows."""
    with stored(place) as store:
        store.make_tables()
        for _ in range(3):
            won: list[int] = []

            def take(holder: str, won: list[int] = won) -> None:
                with suppress(RunConflictError):
                    won.append(store.acquire("s", holder, now=NOW, seconds=60))

            threads = [threading.Thread(target=take, args=(f"h{at}",)) for at in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) <= 1
            if won:
                with pytest.raises(RunConflictError, match="h"):
                    store.acquire("s", "late", now=NOW, seconds=60)
                store.release("s", fence=won[0])
        assert store.acquire("s", "last", now=NOW, seconds=60) > 0


def test_a_lease_names_its_holder_by_the_label(place: Place) -> None:
    label = "DAG it's \\ 'a', run 1, task t, map index 2"
    with stored(place) as store:
        fence = store.acquire("s", "id-1", now=NOW, seconds=60, label=label)
        assert store.acquire("s", "id-1", now=NOW, seconds=60, label=label) == fence
        with pytest.raises(RunConflictError) as caught:
            store.acquire("s", "id-2", now=NOW, seconds=60, label=label)
        assert f"at work: {label}" in str(caught.value)


def test_a_lease_in_a_table_of_an_earlier_version_lasts_until_it_runs_out(place: Place) -> None:
    """Its holder is one line, the label; the table stays unchanged."""
    until = NOW + timedelta(seconds=60)
    with stored(place) as store:
        store.make_tables()
        place.run(
            "INSERT INTO reverse_etl.leases (sync, holder, fence, valid_until, version)"
            f" VALUES ('s', 'DAG a, run 1', 3, '{until.isoformat()}', 'v')"
        )
        with pytest.raises(RunConflictError, match="at work: DAG a, run 1"):
            store.acquire("s", "id-1", now=NOW, seconds=60, label="DAG a, run 1, task t")
        assert store.acquire("s", "id-1", now=until, seconds=60, label="DAG a, run 1, task t") == 4


def test_a_dropped_snapshot_deletes_nothing(place: Place) -> None:
    with stored(place) as store:
        run(place, store)
    place.run(f"DROP TABLE reverse_etl.{prefix('Of-It.1')}_snapshot", "DELETE FROM m WHERE id = 2")
    with stored(place) as store:
        warehouse = place.open_warehouse()
        request = PlanRequest(sync_of(), "SELECT * FROM m", ("id",), "r", NOW)
        plan = store.plan(request, warehouse)
        warehouse.close()
    assert (plan.planned.added, plan.planned.removed, plan.notes) == (1, 0, ("snapshot_lost",))


def test_a_snapshot_of_an_earlier_version_is_widened_and_nothing_is_sent(place: Place) -> None:
    with stored(place) as store:
        run(place, store)
    place.run(f"ALTER TABLE reverse_etl.{prefix('Of-It.1')}_snapshot DROP COLUMN field_hashes")
    with stored(place) as store:
        warehouse, sync = place.open_warehouse(), sync_of(track={"fields": True})
        for day, total in enumerate((0, 2)):
            plan = store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), "r", NOW + timedelta(days=day)), warehouse)
            assert plan.total == total
            assert set(store.changed_fields(plan, sync).values()) == ({None} if total else set())
            place.run("UPDATE m SET email = email || ' '")  # the same record
        warehouse.close()


def test_a_plan_of_an_earlier_version_is_read_and_committed(place: Place) -> None:
    """Neither its record nor its change set has causes and given-up rows."""
    with stored(place) as store:
        run(place, store, commit=False)
        [plan] = store.unfinished("Of-It.1")
        changes = f"reverse_etl.{prefix('Of-It.1')}_changes_{run_of(plan)}"
        [(content,)] = place.run("SELECT content FROM reverse_etl.plans WHERE stage = 'ready'")
        values = json.loads(content)
        for name in ("causes", "given_up", "given_up_codes"):
            del values[name]
        place.run(
            f"UPDATE reverse_etl.plans SET content = '{json.dumps(values)}' WHERE stage = 'ready'",
            f"ALTER TABLE {changes} DROP COLUMN cause",
            f"ALTER TABLE {changes} DROP COLUMN code",
        )
        [plan] = store.unfinished("Of-It.1")
        assert (plan.total, plan.causes, plan.given_up, plan.given_up_codes) == (2, {}, 0, {})
        assert store.invalid_keys(plan, count=5) == {}
        checkpoint = Checkpoint(announced=2)
        checkpoint.settled.add(1, 2)
        store.commit(plan, checkpoint, RunReport(plan.run_id, plan.planned, 2, 0, 0, 0, 0, 1, 0.5), sync_of())
        run(place, store, day=1)
        assert store.unfinished("Of-It.1") == []
        report = store.last_report("Of-It.1", "run1")
        assert report is not None
        assert report.planned.total == 0


def test_missing_privileges_are_reported_with_the_grant(postgres: str) -> None:
    import psycopg2

    place = postgres_place(postgres)
    place.run("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN")
    name = place.run("SELECT current_database()")[0][0]
    weak = Place("postgres", lambda: psycopg2.connect(postgres, dbname=name, user="reader"), place.open_warehouse)
    with stored(weak) as store:
        assert store.has_state("s") is False
        with pytest.raises(CredentialsError) as caught:
            store.make_tables()
    assert 'CREATE SCHEMA reverse_etl AUTHORIZATION "reader";' in str(caught.value)
    assert "planner: local" in str(caught.value)
    place.run("CREATE SCHEMA reverse_etl")
    with stored(weak) as store, pytest.raises(CredentialsError, match="GRANT USAGE, CREATE ON SCHEMA reverse_etl TO"):
        store.make_tables()
    place.run("DROP SCHEMA reverse_etl", "CREATE SCHEMA reverse_etl AUTHORIZATION reader")
    with stored(weak) as store:
        store.make_tables()


def test_a_failing_expression_quotes_no_value(place: Place) -> None:
    sync = sync_of(mapping={"email": {"sql": "CAST(email AS INTEGER)"}}, mode="upsert")
    warehouse = place.open_warehouse()
    with stored(place) as store, pytest.raises(ConfigurationError) as caught:
        store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), "r", NOW), warehouse)
    warehouse.close()
    assert "example.com" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert tables(place) == permanent(), "nothing is left"


def test_a_plan_whose_mapping_makes_other_rows_than_were_read_is_refused_and_not_kept(place: Place) -> None:
    """The mapping may use functions of the warehouse that we do not know by name."""
    place.run(
        "CREATE MACRO twice(x) AS UNNEST([x, x])"
        if place.dialect == "duckdb"
        else "CREATE FUNCTION twice(TEXT) RETURNS SETOF TEXT LANGUAGE SQL AS 'SELECT UNNEST(ARRAY[$1, $1])'"
    )
    sync = sync_of(mapping={"email": {"sql": "twice(email)"}}, mode="upsert")
    warehouse = place.open_warehouse()
    with stored(place) as store:
        with pytest.raises(ConfigurationError, match="the mapping returns 4 rows for the 2 that were read"):
            store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), "r", NOW), warehouse)
        assert store.unfinished(sync.name) == []
    warehouse.close()
    assert tables(place) == permanent(), "nothing is left"


@pytest.mark.parametrize("dialect", sorted(PLANNERS))
def test_rows_read_and_mapped_are_counted_in_one_statement(dialect: str) -> None:
    """Both counts see one moment, so a model that changes meanwhile is not an error, in each dialect's SQL."""
    recorder, sync = Recorder(), sync_of(mapping={"email": {"sql": "upper(email)"}})
    with suppress(ValueError, KeyError):  # of what it makes of the recorder's answers
        WarehouseStore(lambda: recorder, Columns, dialect=dialect).plan(
            PlanRequest(sync, "SELECT * FROM m", ("id",), "run1", NOW), Columns()
        )
    [statement] = [text for text in recorder.statements if text.count("COUNT(*)") == 2]
    assert len(sqlglot.parse(statement, read=dialect)) == 1
    assert not names_in([statement], dialect) & RESERVED


@pytest.fixture
def ascii_postgres(postgres: str) -> Place:
    """A database whose ``lower()`` knows ASCII only, with a model of one person, in a mirror."""
    place = postgres_place(postgres, "TEMPLATE template0 LOCALE 'C'")
    place.run("CREATE TABLE m (id BIGINT, email TEXT)", "INSERT INTO m VALUES (1, 'ZO\u00cb@example.com')")
    return place


#: Stands in for ICU's collation, which the server of the tests is built without.
COLLATION = """CREATE COLLATION "und-x-icu" (provider = builtin, locale = 'C.UTF-8')"""
FOLDED = {"type": "file", "match_on": "email", "compare": "ignore_case"}


def folded(place: Place, store: WarehouseStore, run_id: str, *, commit: bool = True) -> Plan:
    """Plan a mirror that ignores case; deliver all of it."""
    sync = sync_of(destination=FOLDED)
    warehouse = place.open_warehouse()
    plan = store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), run_id, NOW), warehouse)
    warehouse.close()
    checkpoint = Checkpoint(announced=plan.total)
    if plan.total:
        checkpoint.settled.add(1, plan.total)
    if commit:
        store.commit(plan, checkpoint, RunReport(run_id, plan.planned, plan.total, 0, 0, 0, 0, 1, 0.5), sync)
    return plan


def test_postgres_lowers_letters_of_all_languages_if_it_has_the_collation(ascii_postgres: Place) -> None:
    ascii_postgres.run("INSERT INTO m VALUES (2, 'zo\u00eb@example.com')")
    with stored(ascii_postgres) as store:
        plan = folded(ascii_postgres, store, "without", commit=False)
        assert (plan.planned, plan.causes) == (Planned(added=2), {}), "lower() of the database's locale"
        store.discard(plan)
        ascii_postgres.run(COLLATION)
        plan = folded(ascii_postgres, store, "with", commit=False)
        assert (plan.planned, plan.causes) == (Planned(invalid=2), {"duplicate_identifier": 2})


def test_a_collation_that_appears_makes_other_records_of_the_rows_and_deletes_none(ascii_postgres: Place) -> None:
    with stored(ascii_postgres) as store:
        folded(ascii_postgres, store, "without")
        ascii_postgres.run(COLLATION)
        plan = folded(ascii_postgres, store, "with")
        assert (plan.planned, plan.notes) == (Planned(added=1), ("key_resync",))
        assert folded(ascii_postgres, store, "again").total == 0


@pytest.mark.parametrize("collation", [False, True])
def test_a_record_is_forgotten_by_an_identifier_in_other_letters(ascii_postgres: Place, collation: bool) -> None:
    identifier = "zo\u00cb@EXAMPLE.com"
    if collation:
        ascii_postgres.run(COLLATION)
        identifier = "zo\u00eb@EXAMPLE.com"
    with stored(ascii_postgres) as store:
        folded(ascii_postgres, store, "first")
        assert store.forget_record("Of-It.1", identifier, by_identifier=True)["snapshot"] == 1


def test_names_of_tables_are_safe_short_and_of_one_sync_each() -> None:
    names = ["a", "A", "a-b", "a_b", "a b", 'x"; DROP TABLE y; --', "größe", "1", "", "x" * 500]
    found = [prefix(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]{3,33}", name) for name in found)


@pytest.mark.parametrize("schema", ['a"b', "a; drop", "a.b.c", "", "1a"])
def test_a_schema_is_a_name(schema: str) -> None:
    with pytest.raises(ConfigurationError):
        WarehouseStore(duckdb.connect, lambda: DuckDBWarehouse(duckdb.connect()), dialect="duckdb", schema=schema)


def test_a_warehouse_that_cannot_keep_state_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="planner: local"):
        WarehouseStore(duckdb.connect, lambda: DuckDBWarehouse(duckdb.connect()), dialect="mysql")


@settings(max_examples=examples(30), deadline=None)
@given(st.text(max_size=30), st.sampled_from(sorted(PLANNERS)))
def test_constants_are_read_back_as_they_are(text: str, dialect: str) -> None:
    """The parser of every dialect reads them back; NUL, which Postgres cannot store, becomes U+FFFD."""
    text = text.replace("\0", "")
    constant = Tables(Database(duckdb.connect, PLANNERS[dialect]), "s").text(text)
    assert sqlglot.parse_one(constant, read=dialect).name == text


# ── the SQL of warehouses that are not here ──────────────────────────────────────────────────────────────────────────


class Recorder:
    """A connection that records statements, and returns the rows that a plan and a commit need."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.autocommit = False
        self.description: Any = ("answers",)
        self._rows: list[Any] = []

    def cursor(self) -> Recorder:
        return self

    def close(self) -> None:
        return

    def fetchall(self) -> list[Any]:
        return self._rows

    def execute(self, statement: str) -> None:
        self.statements.append(statement)
        plan = re.search(r"SET generation = '([^']*)'", " ".join(self.statements))
        answers = {
            "SELECT MAX(generation)": [(NOTHING_YET, None)],
            "SELECT DISTINCT generation": [(plan[1] if plan else "",)],
            "SELECT found": [("added", 3)],
            "SELECT change, cause, code, COUNT": [
                ("added", None, None, 3),
                ("invalid", "no_identifier", None, 1),
                ("skipped", "given_up", "bad", 2),
            ],
            "SELECT COUNT(*)": [(4,)],
            "SELECT COALESCE(MAX(number)": [(0,)],
            "SELECT content": [(self._plan(),)] if self._plan() else [],
            "SELECT column_name": [("k0", "BIGINT"), ("f0", "VARCHAR")],
            "DESCRIBE": [("k0", "bigint", None), ("f0", "string", None), ("# Detailed", "", "")],
            "SELECT a.attname": [("k0", "bigint"), ("f0", "character varying")],
            "SELECT 1 FROM (": [(1,)],
        }
        self._rows = next((rows for start, rows in answers.items() if statement.startswith(start)), [])

    def _plan(self) -> str:
        found = re.search(r"'ready', '(\{.*?\})', CAST", " ".join(self.statements))
        return found[1].replace('\\"', '"') if found else ""


class Columns(DuckDBWarehouse):
    def __init__(self) -> None:
        super().__init__(duckdb.connect())
        self._connection.execute("CREATE TABLE m (id BIGINT, email VARCHAR)")


_WORDS = """
aes128 all analyse analyze and any array as asc authorization backup between binary both by case cast check collate
column constraint create credentials cross cube current default deferrable deflate defrag delta desc distinct do else
enable encode encryption end except exclude exists explicit extract false fetch for following from full grant group
grouping groups hash having identity if ignore ilike in increment initially inner insert intersect interval into is
issue join lateral leading left like limit localtime lookup merge minus natural new no not null nulls of off offline
offset oid old on only open or order outer over overlaps parallel partition percent permissions pivot placing preceding
primary qualify range raw recover recursive references regexp rejectlog resort respect restore revoke right rlike rollup
row rows sample schema select set similar snapshot some start struct sysdate system table tablesample tag tdes then
timestamp to top trailing treat trigger true unbounded union unique unnest unpivot update user using values verbose view
wallet when whenever where window with within without
"""
#: What BigQuery, Redshift and Snowflake do not take as a name without quotes, by the lists in their manuals.
RESERVED = set(_WORDS.split())


def names_in(statements: list[str], dialect: str) -> set[str]:
    """Return the unquoted names of tables, columns and aliases."""
    parsed = [
        sqlglot.parse_one(text, read=dialect)
        for text in statements
        if not text.startswith(("ALTER SESSION", "SET ", "ANALYZE", "SHOW", "DESCRIBE"))
    ]
    found = (name for tree in parsed for name in tree.find_all(sqlglot.exp.Identifier) if not name.quoted)
    return {name.name.lower() for name in found} - {"oid"}  # a column of Redshift's own catalog


@pytest.mark.parametrize("dialect", ["bigquery", "databricks", "redshift", "snowflake"])
def test_statements_are_what_they_were(dialect: str) -> None:
    """Each statement parses in its dialect. To accept a change, delete the dialect's golden file and run again."""
    recorder, sync = Recorder(), sync_of(track={"fields": True})
    store = WarehouseStore(lambda: recorder, Columns, dialect=dialect, change_log=True)
    plan = store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), "run1", NOW), Columns())
    store.changed_fields(plan, sync)
    checkpoint = Checkpoint(announced=3)
    checkpoint.settled.add(1, 2)
    checkpoint.fail(2, Receipt(Outcome.REJECTED, "bad", "it's \\ 100% 'wrong'"))
    store.save_checkpoint(plan, checkpoint)
    store.register_writer(sync.name, "crm contacts", NOW)
    store.writers("crm contacts")
    store.commit(plan, checkpoint, RunReport("run1", plan.planned, 1, 1, 1, 0, 0, 1, 0.5), sync)
    texts = [statement.replace(plan.plan_id[-12:], "<run>") for statement in recorder.statements]
    for statement in recorder.statements:
        if not statement.startswith(("ALTER SESSION", "SET ", "ANALYZE", "SHOW", "DESCRIBE")):
            assert len(sqlglot.parse(statement, read=dialect)) == 1, statement
    if dialect == "snowflake":
        begun = re.findall(r"BEGIN;(.*?)COMMIT;", ";".join(recorder.statements), re.DOTALL)
        assert not re.search(r"(CREATE|DROP|ALTER) ", " ".join(begun)), "it would end the transaction"
    assert not names_in(recorder.statements, dialect) & RESERVED, "Redshift's, BigQuery's or Snowflake's own words"
    text = "".join(f"{statement};\n\n" for statement in texts)
    golden = GOLDEN / f"{dialect}.sql"
    if not golden.exists():
        golden.write_text(text)
        pytest.fail(f"{golden.name} is written: read it")
    assert text == golden.read_text()


class Ranges(Columns):
    """Answers the statements that read a change set with its rows, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[str] = []

    def read(self, query: str, *, batch_rows: int = 0) -> pa.RecordBatchReader:
        self.queries.append(query)
        numbers = re.search(r"seq > (\d+) AND seq <= (\d+) ORDER BY seq$", query)
        assert numbers
        seqs = pa.array(range(int(numbers[1]) + 1, int(numbers[2]) + 1), pa.int64())
        names = [item.alias_or_name for item in sqlglot.parse_one(query, read="redshift").selects]
        texts = pa.array(["x"] * len(seqs), pa.string())
        batch = pa.RecordBatch.from_arrays([seqs if name == "seq" else texts for name in names], names)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])


def test_redshift_reads_a_change_set_in_ranges_that_follow_each_other() -> None:
    recorder, sync, ranges = Recorder(), sync_of(), Ranges()
    store = WarehouseStore(lambda: recorder, lambda: ranges, dialect="redshift")
    plan = store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), "run1", NOW), Columns())
    seqs = [seq for batch in store.changes(plan, until=400_000) for seq in batch.column("seq").to_pylist()]
    assert seqs == list(range(1, 400_001))
    first, *others = ranges.queries
    table = first.partition(" FROM ")[2].partition(" WHERE ")[0]
    assert table.endswith(f"_changes_{plan.plan_id[-12:]}")
    assert first == (
        "SELECT seq, change, COALESCE(row_key, CAST(seq AS VARCHAR(MAX))) AS row_key, f0, "
        f"CASE WHEN change = 'removed' THEN identifiers END AS identifiers FROM {table}"
        " WHERE seq > 0 AND seq <= 1000 ORDER BY seq"
    )
    assert [query.partition(" WHERE ")[2] for query in others] == [
        "seq > 1000 AND seq <= 251000 ORDER BY seq",
        "seq > 251000 AND seq <= 400000 ORDER BY seq",
    ]


#: How a column is added, by the page on ALTER TABLE of each manual.
ADDED = {
    "bigquery": "ADD COLUMN field_hashes STRING",
    "databricks": "ADD COLUMNS (field_hashes STRING)",
    "duckdb": "ADD COLUMN field_hashes VARCHAR",
    "postgres": "ADD COLUMN field_hashes TEXT",
    "redshift": "ADD COLUMN field_hashes VARCHAR(MAX)",
    "snowflake": "ADD COLUMN field_hashes VARCHAR",
}


@pytest.mark.parametrize("dialect", sorted(PLANNERS))
def test_a_snapshot_of_an_earlier_version_is_widened_as_the_warehouse_documents_it(dialect: str) -> None:
    class Earlier(Recorder):
        def execute(self, statement: str) -> None:
            """Answer that the sync is known, and its snapshot has no hashes of fields."""
            super().execute(statement)
            columns = [(name, "") for name in OWN["snapshot"] if name != "field_hashes"]
            self._rows = [(1,)] if statement.startswith("SELECT 1 ") else columns

    recorder = Earlier()
    own = Tables(Database(lambda: recorder, PLANNERS[dialect]), "reverse_etl").make_own("s")
    altered = [statement for statement in recorder.statements if statement.startswith("ALTER TABLE")]
    assert altered == [f"ALTER TABLE reverse_etl.{own}_snapshot {ADDED[dialect]}"]


def test_a_session_is_used_again_and_not_after_an_error() -> None:
    opened: list[Any] = []

    def connect() -> Any:
        opened.append(duckdb.connect())
        return opened[-1]

    database = Database(connect, PLANNERS["duckdb"])
    database.run("SELECT 1")
    database.run("SELECT 1")
    assert len(opened) == 1
    with pytest.raises(SqlError):
        database.run("SELECT nothing_like_it")
    database.run("SELECT 1")
    assert len(opened) == 2
    database.close()


def test_a_database_file_that_another_process_holds_is_out_of_reach(tmp_path: Path) -> None:
    file = tmp_path / "held.duckdb"
    script = f"import duckdb; held = duckdb.connect({str(file)!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(SqlError) as caught:
            Database(lambda: duckdb.connect(str(file)), PLANNERS["duckdb"]).run("SELECT 1")
        process.communicate(b"\n")
    assert caught.value.kind is ErrorKind.UNREACHABLE
