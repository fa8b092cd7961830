"""A project of 300 models on Snowflake's dialect, in layers as teams build them, as ``dbt compile`` writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.spec.folders.reading import SyncSource
from airflow_reverse_etl.spec.model import Sync
from tests.dbt.projects import Node, data_test, manifest, model, source

SUBJECTS = 75
MODELS = 4 * SUBJECTS

_STAGING = """\
WITH source AS (
    SELECT * FROM {raw}
), renamed AS (
    SELECT
        raw:id::NUMBER AS ID,
        LOWER(raw:email::VARCHAR) AS EMAIL,
        raw:amount::NUMBER(18, 2) AS AMOUNT,
        raw:"Status"::VARCHAR AS STATUS,
        TRY_TO_TIMESTAMP_NTZ(raw:updated_at::VARCHAR) AS UPDATED_AT,
        _LOADED_AT
    FROM source
)
SELECT * FROM renamed
QUALIFY ROW_NUMBER() OVER (PARTITION BY ID ORDER BY UPDATED_AT DESC) = 1
"""
_PIVOTED = """\
SELECT
    ID,
    SUM(IFF(STATUS = 'paid', AMOUNT, 0)) AS PAID,
    SUM(IFF(STATUS = 'open', AMOUNT, 0)) AS OPEN,
    LISTAGG(DISTINCT STATUS, ', ') WITHIN GROUP (ORDER BY STATUS) AS STATUSES
FROM {staging}
GROUP BY ALL
"""
_FLATTENED = """\
SELECT s.ID, f.VALUE:name::VARCHAR AS TAG
FROM {staging} AS s, LATERAL FLATTEN(INPUT => SPLIT(s.STATUS, ',')) AS f
"""
_MART = """\
SELECT
    s.* EXCLUDE (_LOADED_AT, STATUS) RENAME (AMOUNT AS LATEST_AMOUNT),
    ZEROIFNULL(p.PAID)::NUMBER(18, 2) AS PAID,
    p.STATUSES,
    o.EMAIL AS OTHER_EMAIL
FROM {staging} AS s
LEFT JOIN {pivoted} AS p ON s.ID = p.ID
LEFT JOIN {other} AS o ON o.ID = s.ID
WHERE s.EMAIL IS NOT NULL
"""


@dataclass(frozen=True)
class Names:
    """The names of what belongs to one subject."""

    number: int

    @property
    def staging(self) -> str:
        return f"stg_subject_{self.number}"

    @property
    def pivoted(self) -> str:
        return f"int_subject_{self.number}_pivoted"

    @property
    def flattened(self) -> str:
        return f"int_subject_{self.number}_tags"

    @property
    def mart(self) -> str:
        return f"subject_{self.number}"

    @property
    def sync(self) -> str:
        return f"subject_{self.number}_to_crm"


def snowflake_project(changes: Mapping[str, Callable[[str], str]] | None = None) -> ProjectVersion:
    """Build the project.

    :param changes: name of a model → what happens to its SQL.
    """
    nodes: list[Node] = []
    for number in range(SUBJECTS):
        nodes += _subject(Names(number), changes or {})
    return ProjectVersion(manifest(*nodes, adapter="snowflake"))


def _subject(names: Names, changes: Mapping[str, Callable[[str], str]]) -> list[Node]:
    # Marts also read the staging of the subject before.
    other = Names((names.number - 1) % SUBJECTS)
    tables = {"raw": f"RAW.CRM.SUBJECT_{names.number}"}
    for name in ("staging", "pivoted"):
        tables[name] = f"DB.MAIN.{getattr(names, name)}"
    tables["other"] = f"DB.MAIN.{other.staging}"
    raw = f"source.shop.raw.subject_{names.number}"
    parents = {
        names.staging: [raw],
        names.pivoted: [names.staging],
        names.flattened: [names.staging],
        names.mart: [names.staging, names.pivoted, other.staging],
    }
    texts = {names.staging: _STAGING, names.pivoted: _PIVOTED, names.flattened: _FLATTENED, names.mart: _MART}
    nodes: list[Node] = [source(f"subject_{names.number}", relation_name=tables["raw"])]
    for name, text in texts.items():
        sql = changes.get(name, str)(text.format(**tables))
        relation = f"DB.MAIN.{name}"
        nodes.append(model(name, sql, compiled=sql, parents=parents[name], relation_name=relation))
    return [*nodes, data_test("unique", names.mart, "ID"), data_test("not_null", names.mart, "ID")]


def snowflake_syncs() -> list[SyncSource]:
    """Return a sync of each mart."""
    found = []
    for number in range(SUBJECTS):
        names = Names(number)
        values = {
            "name": names.sync,
            "model": names.mart,
            "source": "warehouse",
            "destination": {"type": "http"},
            "track": {"cursor": "updated_at"},
            "mapping": {"email": "EMAIL", "amount": "latest_amount", "paid": {"sql": 'ROUND("PAID")'}},
        }
        found.append(SyncSource(Sync.load(values), f"syncs/{names.mart}.yaml"))
    return found
