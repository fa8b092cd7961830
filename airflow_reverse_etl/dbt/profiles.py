"""profiles.yml made from an Airflow connection: secrets are references to environment variables, never values.

One small function per dbt adapter. Field names: dbt's adapter documentation, and the connection forms of Airflow's
own providers.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError, ProjectError

if TYPE_CHECKING:
    from airflow_reverse_etl.sync.ports import ConnectionInfo

_SECRET = "DBT_ENV_SECRET_"  # noqa: S105 - dbt's own prefix: it keeps such variables out of its logs and artifacts

UNKNOWN_DATABASE = "reverse_etl_unknown"
_DATABASES = ("database", "dbname", "project", "catalog")
_DATABASE_OF = {"postgres": "dbname", "redshift": "dbname", "bigquery": "project", "databricks": "catalog"}
_USUAL_SCHEMA = {"duckdb": "main", "databricks": "default"}


@dataclass(frozen=True, slots=True)
class Profile:
    """One output of profiles.yml.

    :param output: as dbt reads it; ``type`` is the adapter's.
    :param secrets: values for the environment of the dbt process, by variable name.
    """

    output: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def without_secrets(self) -> Profile:
        """The same for ``dbt parse``, which connects to nothing: any value will do."""
        return Profile(self.output, dict.fromkeys(self.secrets, "none"))

    def write(self, folder: Path, *, name: str, target: str) -> Path:
        """Write profiles.yml, whose only profile has only this output. JSON is YAML."""
        content = {name: {"target": target, "outputs": {target: dict(self.output)}}}
        (folder / "profiles.yml").write_text(json.dumps(content, indent=2))
        return folder


def from_connection(connection: ConnectionInfo, *, schema: str | None = None, database: str | None = None) -> Profile:
    """The profile for a warehouse connection.

    :param schema: where dbt builds; default: the connection's own, or the adapter's usual one.
    :param database: the same; BigQuery's project, Databricks' catalog. Not for DuckDB, whose database is its file.
    :raises ConfigurationError: no adapter is known for the connection's type, or something is missing in it.
    """
    adapter = _ADAPTERS.get(connection.conn_type)
    if adapter is None:
        raise ConfigurationError(
            f"no dbt profile can be made from a connection of type {connection.conn_type!r}",
            todo=f"use one of {', '.join(_ADAPTERS)}, or commit a profiles.yml and leave profile_conn_id out",
            connection=connection.conn_id,
        )
    vault = _Vault()
    output = {"threads": 4, **adapter(connection, vault), **connection.extra.get("dbt", {})}
    output = {name: value for name, value in output.items() if value is not None}
    if schema:
        output["dataset" if output["type"] == "bigquery" else "schema"] = schema
    if database and output["type"] == "duckdb":
        raise ConfigurationError(
            "the database of DuckDB is its file", todo="leave database out", connection=connection.conn_id
        )
    if database:
        output[_DATABASE_OF.get(output["type"], "database")] = database
    for name in ("schema", "dataset"):
        if output.get(name) == "":
            raise ConfigurationError(
                "dbt has to know a schema",
                todo=f"give schema=, or set {name} in the connection",
                connection=connection.conn_id,
            )
    return Profile(output, vault.secrets)


def stand_in(adapter: str, *, schema: str | None = None, database: str = UNKNOWN_DATABASE) -> Profile:
    """A profile that is good for ``dbt parse``: when nobody says where the models are, or when the warehouse's own
    adapter is not installed.

    :param schema: default: the adapter's usual one.
    :param database: default: ``UNKNOWN_DATABASE``, to be left out of relations.
    """
    from airflow_reverse_etl.sync.ports import ConnectionInfo

    extra = dict.fromkeys(("account", "database", "project", "catalog", "http_path"), database)
    if adapter == "duckdb":  # whose database is named after its file, which parsing does not open
        extra["database"] = f"{database}.duckdb"
    connection = ConnectionInfo("", adapter, "localhost", None, database, "none", "none", extra)
    return from_connection(connection, schema=schema or _USUAL_SCHEMA.get(adapter, "public")).without_secrets()


def place(output: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Database and schema that an output of profiles.yml names, whichever adapter it is for."""
    found = (next((output[k] for k in keys if output.get(k)), None) for keys in (_DATABASES, ("schema", "dataset")))
    database, schema = (None if value is None else str(value) for value in found)
    return database, schema


def project_output(folder: Path, *, profile: str, target: str | None, env: Mapping[str, str]) -> dict[str, Any]:
    """One output of a project's own profiles.yml, with ``env_var`` answered from ``env``.

    :raises ProjectError: there is no such profile or target.
    """
    import yaml
    from jinja2.sandbox import SandboxedEnvironment

    def rendered(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: rendered(inner) for name, inner in value.items()}
        return template.from_string(value).render() if isinstance(value, str) else value

    template = SandboxedEnvironment()
    template.globals["env_var"] = lambda name, default="none": env.get(name, default)
    try:
        known = yaml.safe_load((folder / "profiles.yml").read_text())[profile]
        output: dict[str, Any] = rendered(known["outputs"][target or rendered(known.get("target")) or "default"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ProjectError(
            "the project's profiles.yml has no such profile or target",
            todo="give profile_conn_id, or check the profile's and the target's name",
            profile=profile,
            target=target,
        ) from error
    return output


class _Vault:
    """Collects secrets and hands out references to them."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}

    def __call__(self, name: str, value: str | None) -> str | None:
        if not value:
            return None
        self.secrets[f"{_SECRET}{name}"] = value
        return f"{{{{ env_var('{_SECRET}{name}') }}}}"


def _duckdb(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    path = conn.extra.get("database") or conn.host or ":memory:"
    local = path != ":memory:" and not re.match(r"(md|motherduck):", path)
    token = vault("MOTHERDUCK_TOKEN", conn.password)
    return {
        "type": "duckdb",
        "path": str(Path(path).absolute()) if local else path,  # dbt runs in another folder
        "schema": conn.schema or "main",
        "threads": 1,
        "settings": {"motherduck_token": token} if token and not local else None,
    }


def _postgres(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    passed = ("sslmode", "sslcert", "sslkey", "sslrootcert", "role", "keepalives_idle")
    return {
        "type": "postgres",
        "host": conn.host or "localhost",
        "port": conn.port or 5432,
        "user": conn.login,
        "password": vault("PASSWORD", conn.password),
        "dbname": conn.schema or conn.login,
        "schema": "public",
        **{name: conn.extra.get(name) for name in passed},
    }


def _redshift(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    return {**_postgres(conn, vault), "type": "redshift", "port": conn.port or 5439}


def _snowflake(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    extra = {key.removeprefix("extra__snowflake__"): value for key, value in conn.extra.items()}
    region = extra.get("region")
    key = extra.get("private_key_content")
    if key and "-----BEGIN" not in key:  # newer versions of the provider take it base64-encoded
        key = base64.b64decode(key).decode()
    by_key = key or extra.get("private_key_file")
    return {
        "type": "snowflake",
        "account": f"{extra.get('account', '')}{f'.{region}' if region else ''}" or conn.host,
        "user": conn.login,
        "password": None if by_key else vault("PASSWORD", conn.password),
        "private_key": vault("PRIVATE_KEY", key),
        "private_key_path": extra.get("private_key_file"),
        "private_key_passphrase": vault("PASSPHRASE", conn.password) if by_key else None,
        "authenticator": extra.get("authenticator"),
        "role": extra.get("role"),
        "warehouse": extra.get("warehouse"),
        "database": extra.get("database"),
        "schema": conn.schema or "",
    }


def _bigquery(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    extra = {key.removeprefix("extra__google_cloud_platform__"): value for key, value in conn.extra.items()}
    keys = extra.get("keyfile_dict")
    keys = json.loads(keys) if isinstance(keys, str) and keys else keys
    if keys:
        method = {
            "method": "service-account-json",
            "keyfile_json": {**keys, "private_key": vault("PRIVATE_KEY", keys.get("private_key"))},
        }
    elif extra.get("key_path"):
        method = {"method": "service-account", "keyfile": extra["key_path"]}
    else:
        method = {"method": "oauth"}  # the worker's own identity
    return {
        "type": "bigquery",
        **method,
        "project": extra.get("project") or (keys or {}).get("project_id"),
        "dataset": conn.schema or extra.get("dataset") or "",
        "location": extra.get("location"),
    }


def _databricks(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    return {
        "type": "databricks",
        "host": re.sub(r"^https?://|/$", "", conn.host or ""),
        "http_path": conn.extra.get("http_path"),
        "token": vault("TOKEN", conn.password or conn.extra.get("token")),
        "catalog": conn.extra.get("catalog"),
        "schema": conn.schema or conn.extra.get("schema") or "default",
    }


_ADAPTERS: dict[str, Callable[[ConnectionInfo, _Vault], dict[str, Any]]] = {
    "duckdb": _duckdb,
    "postgres": _postgres,
    "redshift": _redshift,
    "snowflake": _snowflake,
    "google_cloud_platform": _bigquery,
    "gcpbigquery": _bigquery,
    "bigquery": _bigquery,
    "databricks": _databricks,
}
