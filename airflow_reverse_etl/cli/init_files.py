"""Contents of the files that ``reverse-etl init`` writes: which column feeds which field, the sync, and the DAG."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import ObjectField, ObjectSchema

_DAG = '''\
"""Send the dbt model {model} to {place}. Written by `reverse-etl init`; change it as you like."""

from __future__ import annotations

from airflow.sdk import dag
from pendulum import datetime

from airflow_reverse_etl.operators import DbtModelSyncOperator, DbtOperator, ReverseEtlOperator


@dag(
    schedule={schedule},
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={{"retries": 3}},
    tags=["reverse-etl"],
)
def {name}() -> None:
    models = DbtModelSyncOperator(
        task_id="models",
        git_conn_id={git},
        ref={ref},
        project_path={project_path},
        profile_conn_id={source},
    )
    built = DbtOperator(
        task_id="dbt_build",
        command="build",
        select={select},
        project=models.output,
        profile_conn_id={source},
    )
    sync = ReverseEtlOperator(task_id="sync", sync={sync}, catalog=models.output)

    models >> built >> sync


{name}()
'''


@dataclass(frozen=True, slots=True)
class MatchedFields:
    """Fields of the destination with their columns, and what is left on both sides."""

    pairs: dict[str, str]
    columns_left: tuple[str, ...] = ()
    required_left: tuple[str, ...] = ()


def match(columns: Sequence[str], schema: ObjectSchema | None) -> MatchedFields:
    """Match columns to fields by their names: exactly, or else without case and punctuation.

    A destination that does not describe its fields gets each column under its own name.
    """
    if schema is None:
        return MatchedFields({column: column for column in columns})
    fields = [field for field in schema.fields if field.writable]
    exact = set(columns)
    folded: dict[str, str] = {}
    for column in columns:
        folded.setdefault(_folded(column), column)
    pairs: dict[str, str] = {}
    for field in fields:
        found = field.name if field.name in exact else folded.get(_folded(field.name))
        if found is not None:
            pairs[field.name] = found
    used = set(pairs.values())
    return MatchedFields(
        pairs,
        tuple(column for column in columns if column not in used),
        tuple(field.name for field in fields if field.required and field.name not in pairs),
    )


def match_on(fields: Iterable[ObjectField], pairs: Mapping[str, str]) -> str | None:
    """Return the first mapped field whose values are unique, by which the destination can recognise a record."""
    return next((field.name for field in fields if field.unique and field.name in pairs), None)


def sync_text(spec: Mapping[str, Any], found: MatchedFields) -> str:
    """Return a sync as YAML, with the columns and fields that nothing was found for as comments."""
    lines = []
    for key, value in spec.items():
        if not isinstance(value, dict):
            lines.append(f"{key}: {scalar(value)}")
            continue
        lines.append(f"{key}:")
        lines += [f"  {scalar(name)}: {scalar(inner)}" for name, inner in value.items()]
        if key == "mapping":
            lines += [f"  # {scalar(name)}: …  # required, and no column has this name" for name in found.required_left]
            lines += [f"  # …: {scalar(column)}  # no field has this name" for column in found.columns_left]
    return "\n".join(lines) + "\n"


def dag_text(values: Mapping[str, str]) -> str:
    """Return the file of a DAG that builds the model and sends it.

    :param values: ``name`` and ``place``, and others that become Python strings.
    """
    plain = {key: values[key] for key in ("name", "model", "place")}
    quoted = {key: json.dumps(value) for key, value in values.items() if key not in plain}
    return _DAG.format(**plain, **quoted)


def scalar(value: object) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


#: Texts that YAML takes for other values.
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def identifier(text: str) -> str:
    """Return a name for a column, model, sync or DAG: lower case, digits and underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if name[:1].isalpha() else f"_{name}"


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
