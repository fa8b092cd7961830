"""The local planner: runs the plan statement in DuckDB over a stream of the model."""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import AttentionError, ConfigurationError
from airflow_reverse_etl.spec.comparison import Comparison
from airflow_reverse_etl.sql.statements.plan import PlanStatement, counted, surplus
from airflow_reverse_etl.stores.lake.change_set import HASHES, KINDS, UNSENT_KINDS
from airflow_reverse_etl.stores.lake.duckdb import Scratch
from airflow_reverse_etl.sync.ports import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

#: Types that Parquet files and their readers do not preserve. The change set holds such values as text.
_AS_TEXT = ("HUGEINT", "UHUGEINT", "UUID", "JSON", "INTERVAL", "BIT", "TIME WITH TIME ZONE", "ENUM(", "BIGNUM")

_MAPPED_ROWS = "SELECT COALESCE(MAX(last_value), 0) FROM duckdb_sequences() WHERE sequence_name = 'mapped_rows'"


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """The result of comparing a model with the snapshot.

    :param counts: of the plan's rows, in the form of :func:`~airflow_reverse_etl.sync.planning.make_plan`.
    :param comparison: completed with the bounds of the model's cursor.
    """

    counts: Sequence[tuple[Any, ...]]
    model_rows: int
    comparison: Comparison

    @property
    def changes(self) -> set[str]:
        """Kinds of change that the plan's rows have."""
        return {change for change, *_ in self.counts}


def compare(
    scratch: Scratch, statement: PlanStatement, warehouse: Warehouse, *, snapshot_rows: int, now: datetime
) -> ComparedModel:
    """Read the model and create ``the_plan`` from it. Needs the relations ``delivered`` and ``rejections``."""
    run = scratch.execute

    def keep(_: Mapping[str, str]) -> None:
        run("CREATE TABLE kept AS SELECT * FROM model")

    if statement.cursor:
        model_rows, types = _read_model(scratch, statement, warehouse, keep)
        _compare_kept(scratch, statement, types)
    else:
        # Only syncs in mode mirror record identifiers. Without any, the join does not keep them in memory.
        identified = bool(run("SELECT 1 FROM delivered WHERE identifiers IS NOT NULL LIMIT 1"))

        def compare_stream(types: Mapping[str, str]) -> None:
            scratch.store("candidates", statement.compare(types, identified=identified))

        # Compare while the model streams by.
        model_rows, types = _read_model(scratch, statement, warehouse, compare_stream)
        found = dict(run("SELECT found, count(*) FROM candidates GROUP BY found"))
        compared = statement.tracked and statement.comparison.compared
        if compared and surplus(model_rows=model_rows, snapshot_rows=snapshot_rows, found=found):
            # Rare: a key that was unique when it was sent has several rows now. Read the model once more.
            model_rows, types = _read_model(scratch, statement, warehouse, keep)
            _compare_kept(scratch, statement, types)
        else:
            run(f"CREATE TABLE repeated AS {statement.repeated('candidates')}")
    # Classify the rows.
    run(f"CREATE TABLE quarantined AS {statement.quarantined(now)}")
    run(f"CREATE TEMP VIEW the_plan AS {statement.classify}")
    comparison = _with_bounds(scratch, statement, types, now) if statement.cursor else statement.comparison
    run("DROP TABLE IF EXISTS kept")
    return ComparedModel(run(counted("the_plan")), model_rows, comparison)


def _compare_kept(scratch: Scratch, statement: PlanStatement, types: Mapping[str, str]) -> None:
    """Compare the stored model, and find the keys that have several rows."""
    scratch.execute("CREATE OR REPLACE TEMP VIEW model AS SELECT * FROM kept")
    scratch.execute(f"CREATE TABLE repeated AS {statement.repeated('model')}")
    scratch.store("candidates", statement.compare_repeated(types))


def _with_bounds(scratch: Scratch, statement: PlanStatement, types: Mapping[str, str], now: datetime) -> Comparison:
    """Return the comparison, completed with the bounds of the model's cursor."""
    [(high,)] = scratch.execute(statement.highest_cursor("kept", types, now))
    [(floor,)] = scratch.execute(statement.lowest_cursor("the_plan", types, statement.open_unsent))
    return statement.comparison.seen(statement.cursor_kind(types), high, floor)


def write(scratch: Scratch, statement: PlanStatement, compared: ComparedModel, folder: str) -> None:
    """Write the change set, and the keys of rows that are not sent but that the commit needs."""
    hashes = ", ".join(HASHES)
    values = "".join(f"{name}, " for name in (*statement.values, *statement.cursor))
    kept = ", ".join(("identifiers", *statement.hashed, *HASHES))
    columns = dict.fromkeys(KINDS, f"row_key, {values}{kept}")
    columns |= {"recorded": f"row_key, {kept}", "invalid": f"row_key, cause, {hashes}"}
    for change in (*KINDS, *UNSENT_KINDS):
        if change in compared.changes:
            select = f"SELECT {columns.get(change, hashes)} FROM the_plan WHERE change = '{change}'"
            scratch.copy(select, f"{folder}/{change}.parquet")


def _read_model(
    scratch: Scratch, statement: PlanStatement, warehouse: Warehouse, consume: Callable[[Mapping[str, str]], None]
) -> tuple[int, dict[str, str]]:
    """Stream the model once; return the number of its rows, and the types of its columns.

    :param consume: reads the relation ``model`` once; called with the types.
    """
    import duckdb

    stream = _Stream(warehouse.read(statement.extract))
    connection = scratch.connection
    try:
        # An empty table gives the types of the mapped columns.
        connection.register("extracted", stream.schema.empty_table())
        types = {name: kind for name, kind, *_ in scratch.execute(f"DESCRIBE {statement.mapped}")}
        columns = ", ".join(
            f"CAST({name} AS VARCHAR) AS {name}" if stored_as_text(kind) else name for name, kind in types.items()
        )
        # Replace the empty table by the stream.
        connection.register("extracted", stream.reader())
        scratch.execute(f"CREATE OR REPLACE TEMP VIEW mapped AS SELECT {columns} FROM ({statement.mapped})")
        types = {name: "VARCHAR" if stored_as_text(kind) else kind for name, kind in types.items()}
        if statement.cursor:
            statement.cursor_kind(types)  # raises an error if the cursor's type is not supported
        model = statement.model(types)
        if statement.calculates:
            # Count the rows as they pass, because the stream can be read only once.
            scratch.execute("CREATE OR REPLACE TEMP SEQUENCE mapped_rows")
            model = f"SELECT * REPLACE (CASE WHEN NEXTVAL('mapped_rows') > 0 THEN 1 END AS present) FROM ({model})"
        scratch.execute(f"CREATE OR REPLACE TEMP VIEW model AS {model}")
        consume(types)
        if statement.calculates:
            [(mapped,)] = scratch.execute(_MAPPED_ROWS)
            statement.check_rows(read=stream.rows, mapped=mapped)
    except duckdb.Error as error:
        if stream.error:
            raise stream.error from None
        raise _translated(error, statement) from None
    finally:
        connection.unregister("extracted")
        stream.close()
    return stream.rows, types


def stored_as_text(data_type: str) -> bool:
    """Return whether the change set holds values of a DuckDB type as text."""
    return data_type.startswith(_AS_TEXT) and not data_type.endswith("]")


def _translated(error: Exception, statement: PlanStatement) -> Exception:
    """Translate DuckDB's error. Its text is dropped once rows were read, because it may then quote a value."""
    import duckdb

    sync = statement.sync.name
    if isinstance(error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException):
        return ConfigurationError(
            f"an expression of the mapping does not fit the model: {str(error).splitlines()[0]}",
            todo="correct the expression; c0, c1 ... are the model's columns in the order of their use in the sync",
            sync=sync,
        )
    if isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
        return AttentionError(
            "the plan does not fit into the memory and disk that it may use",
            todo="give the worker a larger temporary folder, or raise the memory limit of the state store",
            sync=sync,
        )
    return ConfigurationError(
        f"an expression of the mapping fails for a row of the model ({type(error).__name__})",
        todo="make the expression safe for every row, with CASE or TRY_CAST, or leave the row out of the model",
        sync=sync,
    )


class _Stream:
    """A reader that counts its rows, and keeps the exception that it raised: DuckDB passes on only the text."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        self.schema = reader.schema
        self.rows = 0
        self.error: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._reader:
                self.rows += batch.num_rows
                yield batch
        except Exception as error:
            self.error = error
            raise

    def close(self) -> None:
        self._reader.close()
