"""Profiles for dbt, made from Airflow connections. profiles.yml holds references to secrets, never their values.

One small function per dbt adapter. Sources of field names: dbt's adapter documentation, and the connection forms of
Airflow's own providers.
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

_SECRET = "DBT_ENV_SECRET_"  # noqa: S105 - dbt's own prefix: dbt keeps such variables out of its logs and artifacts

UNKNOWN_DATABASE = "reverse_etl_unknown"
_DATABASES = ("database", "dbname", "project", "catalog")
_DATABASE_OF = {"postgres": "dbname", "redshift": "dbname", "bigquery": "project", "databricks": "catalog"}
_DEFAULT_SCHEMA = {"duckdb": "main", "databricks": "default"}


@dataclass(frozen=True, slots=True)
class Profile:
    """One output of profiles.yml.

    :param output: the output as dbt reads it; ``type`` is the adapter's name.
    :param secrets: environment variables of the dbt process that hold the secrets.
    """

    output: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def without_secrets(self) -> Profile:
        """Return the profile with placeholders for ``dbt parse``, which opens no connection."""
        return Profile(self.output, dict.fromkeys(self.secrets, "none"))

    def write(self, folder: Path, *, name: str, target: str) -> Path:
        """Write a profiles.yml with this output alone, as JSON, which is YAML. Return the folder."""
        content = {name: {"target": target, "outputs": {target: dict(self.output)}}}
        (folder / "profiles.yml").write_text(json.dumps(content, indent=2))
        return folder


def from_connection(connection: ConnectionInfo, *, schema: str | None = None, database: str | None = None) -> Profile:
    """Return the profile for a warehouse connection.

    :param schema: schema that dbt builds in; default: the connection's, or the adapter's default.
    :param database: database that dbt builds in, BigQuery's project or Databricks' catalog; default: the connection's.
        Not for DuckDB, whose database is its file.
    :raises ConfigurationError: the connection's type has no adapter, or the connection is incomplete.
    """
    adapter = _ADAPTERS.get(connection.conn_type)
    if adapter is None:
        raise ConfigurationError(
            f"connections of type {connection.conn_type!r} have no dbt profile",
            todo=f"use one of {', '.join(_ADAPTERS)}, or commit a profiles.yml and remove profile_conn_id",
            connection=connection.conn_id,
        )
    vault = _Vault()
    output = {"threads": 4, **adapter(connection, vault), **connection.extra.get("dbt", {})}
    output = {name: value for name, value in output.items() if value is not None}
    if schema:
        output["dataset" if output["type"] == "bigquery" else "schema"] = schema
    if database and output["type"] == "duckdb":
        raise ConfigurationError(
            "the database of DuckDB is its file", todo="remove database", connection=connection.conn_id
        )
    if database:
        output[_DATABASE_OF.get(output["type"], "database")] = database
    for name in ("schema", "dataset"):
        if output.get(name) == "":
            raise ConfigurationError(
                "dbt needs a schema",
                todo=f"pass schema=, or set {name} in the connection",
                connection=connection.conn_id,
            )
    return Profile(output, vault.secrets)


def placeholder_profile(adapter: str, *, schema: str | None = None, database: str = UNKNOWN_DATABASE) -> Profile:
    """Return a profile for ``dbt parse`` that leads to no warehouse.

    It is used without a profile, or without the warehouse's own adapter.

    :param schema: schema of the models; default: the adapter's default.
    :param database: database of the models; default: ``UNKNOWN_DATABASE``, which :func:`read_manifest
        <airflow_reverse_etl.dbt.manifest.read_manifest>` removes from relations.
    """
    from airflow_reverse_etl.sync.ports import ConnectionInfo

    extra = dict.fromkeys(("account", "database", "project", "catalog", "http_path"), database)
    if adapter == "duckdb":  # DuckDB's database is named after its file, which parsing does not open
        extra["database"] = f"{database}.duckdb"
    connection = ConnectionInfo("", adapter, "localhost", None, database, "none", "none", extra)
    return from_connection(connection, schema=schema or _DEFAULT_SCHEMA.get(adapter, "public")).without_secrets()


def database_and_schema(output: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the database and schema of an output of profiles.yml, for any adapter."""
    return _first_value(output, _DATABASES), _first_value(output, ("schema", "dataset"))


def _first_value(output: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        if value := output.get(key):
            return str(value)
    return None


def project_output(folder: Path, *, profile: str, target: str | None, env: Mapping[str, str]) -> dict[str, Any]:
    """Return one output of a project's own profiles.yml, with ``env_var`` resolved from ``env``.

    :raises ProjectError: the profile or target does not exist.
    """
    import yaml
    from jinja2.sandbox import SandboxedEnvironment

    def render(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: render(inner) for name, inner in value.items()}
        if isinstance(value, str):
            return template.from_string(value).render()
        return value

    template = SandboxedEnvironment()
    template.globals["env_var"] = lambda name, default="none": env.get(name, default)
    try:
        found = yaml.safe_load((folder / "profiles.yml").read_text())[profile]
        name = target or render(found.get("target")) or "default"
        output: dict[str, Any] = render(found["outputs"][name])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ProjectError(
            "the profile or target was not found in the project's profiles.yml",
            todo="set profile_conn_id, or correct the name of the profile or target",
            profile=profile,
            target=target,
        ) from error
    return output


class _Vault:
    """Collection of secrets, which returns references to them."""

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
        # dbt requires one; libpq takes an empty one as none, and looks into its own password file.
        "password": vault("PASSWORD", conn.password) or "",
        "dbname": conn.schema or conn.login,
        "schema": "public",
        **{name: conn.extra.get(name) for name in passed},
    }


def _redshift(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    output = _postgres(conn, vault)
    return {**output, "type": "redshift", "port": conn.port or 5439, "password": output["password"] or None}


def _snowflake(conn: ConnectionInfo, vault: _Vault) -> dict[str, Any]:
    extra = {key.removeprefix("extra__snowflake__"): value for key, value in conn.extra.items()}
    region = extra.get("region")
    key = extra.get("private_key_content")
    if key and "-----BEGIN" not in key:  # newer versions of the provider expect it base64-encoded
        key = base64.b64decode(key).decode()
    by_key = key or extra.get("private_key_file")
    account = extra.get("account", "")
    if region:
        account = f"{account}.{region}"
    return {
        "type": "snowflake",
        "account": account or conn.host,
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
    if isinstance(keys, str) and keys:
        keys = json.loads(keys)
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
