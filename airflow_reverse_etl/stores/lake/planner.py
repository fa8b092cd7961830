"""The local planner: runs the plan statement in DuckDB over a stream of the model."""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.columns import INTEGER, JSON, KIND, NESTED, json_places, nested_kind
from airflow_reverse_etl.sql.column_types import json_places as places_in
from airflow_reverse_etl.sql.statements.classification import counted
from airflow_reverse_etl.sql.statements.plan import PlanStatement
from airflow_reverse_etl.stores.lake.change_set import UNSENT_KINDS
from airflow_reverse_etl.stores.lake.duckdb import Scratch, full
from airflow_reverse_etl.sync.planning import PlanRunner
from airflow_reverse_etl.sync.ports import KINDS, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_reverse_etl.spec.columns import JsonPlaces

#: Types that Parquet files and their readers do not preserve. The change set holds such values as text.
_AS_TEXT = ("HUGEINT", "UHUGEINT", "UUID", "JSON", "INTERVAL", "BIT", "TIME WITH TIME ZONE", "ENUM(", "BIGNUM")

#: Metadata of a field of text by which DuckDB knows its type JSON.
_JSON_TYPE = {"ARROW:extension:name": "arrow.json", "ARROW:extension:metadata": ""}

_MAPPED_ROWS = "SELECT COALESCE(MAX(last_value), 0) FROM duckdb_sequences() WHERE sequence_name = 'mapped_rows'"

#: Relations that are read once or twice, and relations with as many rows as the model may have. Others are tables.
_VIEWS = frozenset({"model", "judged"})
_LARGE = frozenset({"candidates", "whole_model"})


class LakePlanRunner(PlanRunner):
    """Runs the plan statement in DuckDB.

    :param scratch: has the relations ``delivered`` and ``rejections``.
    :param folder: of the change set.
    """

    def __init__(self, scratch: Scratch, warehouse: Warehouse, folder: str) -> None:
        self._scratch = scratch
        self._warehouse = warehouse
        self._folder = folder
        #: What the text of values in the change set stands for, known once the model was read.
        self.kinds: Mapping[str, str] = {}

    @property
    def identified(self) -> bool:
        return bool(self.rows("SELECT 1 FROM delivered WHERE identifiers IS NOT NULL LIMIT 1"))

    def read_model(
        self, statement: PlanStatement, name: str, select: Callable[[Mapping[str, str]], str]
    ) -> tuple[int, Mapping[str, str]]:
        rows, types, self.kinds = _read_model(
            self._scratch, statement, self._warehouse, lambda types: self._scratch.store(name, select(types))
        )
        return rows, types

    def make(self, name: str, select: str) -> None:
        if name in _LARGE:
            self._scratch.store(name, select)
        elif name in _VIEWS:
            self._scratch.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {select}")
        elif name == "the_plan":
            self._make_plan(select)
        else:
            self._scratch.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {select}")

    def _make_plan(self, select: str) -> None:
        """Make ``the_plan``, which is read once for each kind of row: stored if it is joined with more than digests."""
        if "row_states" in select:
            self._scratch.store("the_plan", select)
        else:
            self._scratch.execute(f"CREATE OR REPLACE TEMP VIEW the_plan AS {select}")

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return self._scratch.execute(select)

    def write(self, statement: PlanStatement) -> list[tuple[Any, ...]]:
        """Write the change set, and the keys of rows that are not sent but that the commit needs."""
        counts = self.rows(counted("the_plan"))
        hashes = ", ".join((*statement.digests, "fingerprint"))
        values = "".join(f"{name}, " for name in (*statement.values, *statement.cursor))
        kept = ", ".join(("identifiers", *statement.hashed, hashes))
        columns = dict.fromkeys(KINDS, f"row_key, {values}{kept}")
        columns |= {"recorded": f"row_key, {kept}", "invalid": f"row_key, cause, {hashes}"}
        found = {change for change, *_ in counts}
        for change in (*KINDS, *UNSENT_KINDS):
            if change in found:
                select = f"SELECT {columns.get(change, hashes)} FROM the_plan WHERE change = '{change}'"
                self._scratch.copy(select, f"{self._folder}/{change}.parquet")
        return counts


def _read_model(
    scratch: Scratch, statement: PlanStatement, warehouse: Warehouse, consume: Callable[[Mapping[str, str]], None]
) -> tuple[int, dict[str, str], dict[str, str]]:
    """Stream the model once; return the number of its rows, the types of its columns, and what their text stands for.

    :param consume: reads the relation ``model`` once; called with the types.
    """
    import duckdb

    stream = _Stream(warehouse.read(statement.extract))
    connection = scratch.connection
    try:
        passed_on = _passed_on(scratch, statement, stream.schema)
        # An empty table gives the types of the mapped columns.
        connection.register("extracted", stream.schema.empty_table())
        types = {name: kind for name, kind, *_ in scratch.execute(f"DESCRIBE {statement.mapped}")}
        kinds = {**passed_on, **value_kinds(statement, types), **_source_kinds(statement, stream.schema)}
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
    return stream.rows, types, kinds


def value_kinds(statement: PlanStatement, types: Mapping[str, str]) -> dict[str, str]:
    """Return what the text of values stands for by DuckDB's types.

    Fields in ``match_on`` are sent as the text by which the plan knows them.
    """
    match_on = statement.sync.destination.match_on
    wanted = {f"f{at}" for at, name in enumerate(statement.sync.mapping) if name not in match_on}
    return {name: found for name, kind in types.items() if name in wanted and (found := _stands_for(kind))}


def _source_kinds(statement: PlanStatement, extracted: pa.Schema) -> dict[str, str]:
    """Return what the text of values stands for that are columns as they are, as the source's driver says it."""
    # Some warehouses write names in upper case.
    fields = {field.name.lower(): field for field in extracted}
    found = {name: fields[column].metadata or {} for name, column in statement.plain.items()}
    return {name: metadata[KIND].decode() for name, metadata in found.items() if KIND in metadata}


def _passed_on(scratch: Scratch, statement: PlanStatement, extracted: pa.Schema) -> dict[str, str]:
    """Return what the text of values stands for that an expression passes on, as ``coalesce(payload, other)`` does.

    The source's JSON is text where the plan runs. The expressions would have JSON of it if it had that type, as an
    empty table with that type shows.
    """
    import duckdb

    found: dict[str, str] = {}
    for wanted in (NESTED, JSON):
        typed = _with_json(extracted, wanted)
        if typed is None:
            continue
        scratch.connection.register("extracted", typed.empty_table())
        try:
            types = {name: data_type for name, data_type, *_ in scratch.execute(f"DESCRIBE {statement.mapped}")}
        except duckdb.Error:
            # An expression that takes text only; the text is sent then.
            continue
        finally:
            scratch.connection.unregister("extracted")
        for name, kind in value_kinds(statement, types).items():
            if kind != INTEGER:
                found[name] = NESTED if wanted == NESTED else kind
    return found


def _with_json(extracted: pa.Schema, wanted: str) -> pa.Schema | None:
    """Return a schema in which DuckDB finds its type JSON for the texts of a kind; None without such texts.

    :param wanted: NESTED, or JSON for texts that are any JSON, also in lists, maps and structs.
    """
    import pyarrow as pa

    fields = []
    found = False
    for field in extracted:
        kind = (field.metadata or {}).get(KIND, b"").decode()
        places = JSON if kind == wanted else json_places(kind) if wanted == JSON else None
        fields.append(_json_at(places, field))
        found |= places is not None
    return pa.schema(fields) if found else None


def _json_at(places: JsonPlaces, field: pa.Field) -> pa.Field:
    import pyarrow as pa

    kind = field.type
    if places is None:
        return field
    if places == JSON:
        return field.with_metadata(_JSON_TYPE)
    if isinstance(places, dict):
        return field.with_type(pa.struct([_json_at(places.get(inner.name), inner) for inner in kind]))
    [each] = places
    if pa.types.is_map(kind):
        return field.with_type(pa.map_(kind.key_field, _json_at(each, kind.item_field)))
    return field.with_type(pa.list_(_json_at(each, kind.value_field)))


def _stands_for(data_type: str) -> str:
    if data_type in ("HUGEINT", "UHUGEINT", "BIGNUM"):
        return INTEGER
    return nested_kind(places_in(data_type, "duckdb"))


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
        return full(sync=sync)
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
