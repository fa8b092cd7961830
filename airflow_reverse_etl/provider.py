"""Provider information for Airflow: plain data, no imports of our own."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_INTEGRATION = "Reverse ETL"


def get_provider_info() -> dict[str, Any]:
    """Return the provider information, in the shape of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-reverse-etl",
        "name": "Reverse ETL",
        "description": "dbt models from Git to business applications: only changed rows, with a receipt for each.",
        "integrations": [
            {"integration-name": _INTEGRATION, "external-doc-url": "", "tags": ["service"]},
        ],
        "operators": [
            _modules(
                "operators.approval",
                "operators.base",
                "operators.dbt",
                "operators.dbt_check",
                "operators.dbt_cloud",
                "operators.dbt_models",
                "operators.dbt_pipeline",
                "operators.dbt_task",
                "operators.drift",
                "operators.maintenance",
                "operators.reverse_etl",
                "operators.sync_group",
            )
        ],
        "hooks": [_modules("hooks.dbt_cloud", "hooks.git", "hooks.http", "hooks.hubspot")],
        "sensors": [_modules("sensors.dbt_cloud", "sensors.git")],
        "triggers": [_modules("triggers.dbt_cloud", "triggers.git", "triggers.jobs")],
        "notifications": ["airflow_reverse_etl.notifications.sync.SyncNotifier"],
        "connection-types": [*destination_connections(), GIT_CONNECTION],
        "extra-links": [
            "airflow_reverse_etl.operators.base.SyncLink",
            "airflow_reverse_etl.operators.reverse_etl.DestinationLink",
        ],
        "config": {"reverse_etl": {"description": _CONFIG_TEXT, "options": _OPTIONS}},
    }


def _modules(*names: str) -> dict[str, Any]:
    return {"integration-name": _INTEGRATION, "python-modules": [f"airflow_reverse_etl.{name}" for name in names]}


def _text(label: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], **schema}}


_SECRET = {"format": "password"}
_LINES = {"format": "multiline"}


def destination_connections() -> list[dict[str, Any]]:
    """Return the connection types of our destinations, which ``scripts/schema`` writes from their ``info``."""
    text = files("airflow_reverse_etl").joinpath("schemas/connection_types.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


#: The fields of apache-airflow-providers-git, under the same names, and ours.
GIT_CONNECTION: dict[str, Any] = {
    "connection-type": "reverse_etl_git",
    "hook-class-name": "airflow_reverse_etl.hooks.git.GitRepositoryHook",
    "hook-name": "Git repository (Reverse ETL)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "port"],
        "relabeling": {"host": "Repository URL", "login": "User name", "password": "Access token"},
        "placeholders": {
            "host": "https://github.com/owner/repository, or git@github.com:owner/repository",
            "login": "empty: the user name that the host expects with a token",
            "password": "one that may read the repository, of the Git host's settings; empty with an SSH key",
        },
    },
    "conn-fields": {
        "private_key": _text(
            "Private key",
            "SSH key, or the GitHub App's key: the whole file. Line breaks that a form takes away are put back",
            **_SECRET,
        ),
        "key_file": _text("Private key file", "Path of the key on every worker, instead of the key itself"),
        "private_key_passphrase": _text("Passphrase", "Passphrase of the SSH key", **_SECRET),
        "known_hosts": _text("Known hosts", "Lines of a known_hosts file, as ssh-keyscan prints them", **_LINES),
        "known_hosts_file": _text("Known hosts file", "Path on every worker, instead of the lines"),
        "strict_host_key_checking": _text(
            "Host key checking",
            "yes: only known hosts. accept-new: also a host that is met for the first time. no: any host",
            enum=["yes", "accept-new", "no"],
            default="yes",
        ),
        "ssh_port": _text("SSH port", "Port, if the URL has none"),
        "ssh_config_file": _text("SSH configuration file", "Path on every worker"),
        "host_proxy_cmd": _text("SSH proxy command", "Command that reaches the host, such as ssh -W %h:%p bastion"),
        "github_app_id": _text(
            "GitHub App id", "Id or client id, on the page of the App's settings. The private key is then the App's"
        ),
        "github_installation_id": _text("GitHub installation id", "Id of the installation. Empty: looked up"),
        "ca_certificates": _text(
            "CA certificates", "PEM text, or a file's path, of the host's own authority", **_LINES
        ),
        "proxy": _text("HTTP proxy", "URL of a proxy for https. Empty: the worker's https_proxy", **_SECRET),
        "submodules": _text("Submodules", "Fetch them too", type=["boolean", "null"], default=False),
    },
}

_CONFIG_TEXT = "Reverse ETL: where its state is kept, and what a run may use of a worker."

_OPTIONS: dict[str, dict[str, Any]] = {
    "state_url": {
        "description": (
            "Folder that every worker sees, or object storage URL (s3://, gs://, az://), for snapshots, plans, "
            "checkpoints and catalogs. The default is good for one machine only."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "s3://my-bucket/reverse_etl",
        "default": "{AIRFLOW_HOME}/reverse_etl",
    },
    "state_conn_id": {
        "description": (
            "Airflow connection (aws, google_cloud_platform or wasb) with the credentials of an object storage "
            "state_url. Empty: what the worker's environment provides."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "aws_default",
        "default": "",
    },
    "checkout_folder": {
        "description": (
            "Folder on each worker for checkouts of Git repositories; only the worker's user may write there. "
            "Checkouts unused for a week are removed."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "/var/lib/airflow/checkouts",
        "default": "{AIRFLOW_HOME}/reverse_etl_checkouts",
    },
    "dbt_cloud_webhooks": {
        "description": (
            "Connections of type dbt_cloud, separated by commas, whose webhook deliveries the API server receives at "
            "/reverse-etl/dbt-cloud/<connection id>. Empty: nothing is received."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "dbt_cloud",
        "default": "",
    },
    "environment": {
        "description": (
            "Name of this deployment, of letters, digits and underscores. Its syncs have state of their own: under "
            "state_url in a folder of this name, in a warehouse in the schema reverse_etl_dev for dev."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "dev",
        "default": "",
    },
    "environment_is_new": {
        "description": (
            "Permission for a sync to start from scratch in this environment although it has state without an "
            "environment. Off by default: the run stops."
        ),
        "version_added": "0.1.0",
        "type": "boolean",
        "example": "True",
        "default": "False",
    },
    "warehouse_schema": {
        "description": (
            "Schema for the state of syncs that are planned in the warehouse, created if missing; may be "
            "database.schema."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "analytics.reverse_etl",
        "default": "reverse_etl",
    },
    "history_days": {
        "description": "Number of days for which a sync's runs and its change log are kept.",
        "version_added": "0.1.0",
        "type": "integer",
        "example": "90",
        "default": "365",
    },
    "change_log": {
        "description": (
            "Record of each row that was sent, in the table change_log: its key, hashes and outcome, no values."
        ),
        "version_added": "0.1.0",
        "type": "boolean",
        "example": "True",
        "default": "False",
    },
    "memory_limit": {
        "description": (
            "Most memory that DuckDB may use for one run's comparison; it spills to disk beyond that. A task needs up "
            "to 600 MB besides: with the default, one of 10 million rows stays under 1 GB, or under 1.3 with match_on, "
            "and one of 100 million under 1.5."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "4GB",
        "default": "900MB",
    },
    "duckdb_external_access": {
        "description": (
            "Permission for models in DuckDB to use what is outside of their database: files on the worker and in "
            "object storages, by name or through views, and extensions that are not loaded yet. Off by default."
        ),
        "version_added": "0.1.0",
        "type": "boolean",
        "example": "True",
        "default": "False",
    },
    "privacy_policy": {
        "description": (
            "Path of the YAML file that says which personal data may go to which destinations, on each worker. Empty: "
            "marks in dbt decide nothing."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "{AIRFLOW_HOME}/privacy.yaml",
        "default": "",
    },
    "scratch_folder": {
        "description": "Folder on the worker for data beyond its memory. Empty: the system's temporary folder.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "/mnt/scratch",
        "default": "",
    },
}
