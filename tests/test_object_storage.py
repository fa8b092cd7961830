"""Options of Delta Lake, and of connections, lead obstore to the same storage."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from obstore.store import AzureStore, GCSStore, S3Store

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.object_storage import error_text, open_storage

S3 = {"aws_access_key_id": "key", "aws_secret_access_key": "s3cret", "aws_region": "eu-central-1"}


def opened(url: str, options: dict[str, str]) -> tuple[Any, Any]:
    """Return the options of the storage and of its client that obstore understood."""
    store = open_storage(url, options)
    assert isinstance(store, S3Store | GCSStore | AzureStore)
    return dict(store.config), dict(store.client_options or {})


def test_options_of_s3_and_of_the_client_are_told_apart() -> None:
    more = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "aws_allow_http": "True", "Timeout": "5s", "retry_timeout": "10s"}
    config, client = opened("s3://bucket/a", S3 | more)
    assert config["endpoint"] == "http://127.0.0.1:9"
    assert config["region"] == "eu-central-1"
    assert client == {"allow_http": "True", "timeout": "5s"}


def test_options_that_only_delta_lake_has_are_ignored() -> None:
    config, _ = opened(
        "s3://bucket", S3 | {"aws_s3_allow_unsafe_rename": "true", "AWS_S3_LOCKING_PROVIDER": "dynamodb"}
    )
    assert config["access_key_id"] == "key"


def test_options_of_azure_are_understood() -> None:
    key = base64.b64encode(b"key").decode()
    options = {"azure_storage_account_name": "a", "azure_storage_account_key": key, "azure_storage_tenant_id": "t"}
    config, _ = opened("az://container/prefix", options | {"azure_storage_sas_token": "sv=1&sig=2"})
    assert (config["account_name"], config["account_key"], config["tenant_id"]) == ("a", key, "t")
    assert config["container_name"] == "container"


def test_options_of_google_cloud_storage_are_understood(tmp_path: Path) -> None:
    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = orjson.dumps({"client_email": "a@b", "private_key_id": "1", "private_key": private.decode()}).decode()
    config, _ = opened("gs://bucket/prefix", {"google_service_account_key": account})
    assert config["service_account_key"] == account
    (tmp_path / "key.json").write_text(account)
    config, _ = opened("gs://bucket/prefix", {"google_service_account": str(tmp_path / "key.json")})
    assert config["service_account"] == str(tmp_path / "key.json")


@pytest.mark.parametrize(
    ("url", "options", "problem"),
    [
        ("gopher://bucket", {}, "gopher"),
        ("az://container/a", {}, "Account must be specified"),
        ("gs://bucket", {"google_service_account": "/no/such/file"}, "/no/such/file"),
        ("s3://bucket", {"aws_endpoint_url": "http://a", "endpoint": "http://b"}, "Duplicate key"),
        ("s3://bucket", {"retry_timeout": "soon"}, "'soon' is not a duration such as 10s"),
        ("s3://bucket", {"no_system_certificates": "true"}, "no_system_certificates"),
    ],
)
def test_settings_that_do_not_fit_are_a_configuration_error(url: str, options: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        open_storage(url, {"aws_secret_access_key": "s3cret"} | options if url.startswith("s3") else options)
    assert "Debug source" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


REQUEST = "Error performing PUT http://host/a/b in 2ms"
STATUS = "Server returned non-2xx status code"


def test_the_text_of_an_error_is_one_line_with_the_answer_first() -> None:
    answer = '404 Not Found: <?xml version="1.0"?>\n<Error><Code>NoSuchBucket</Code>\n</Error>'
    error = OSError(f"Object at location a/b not found: {REQUEST} - {STATUS}: {answer}\n\nDebug source:\nNotFound {{}}")
    assert error_text(error) == f"404 Not Found: NoSuchBucket (Object at location a/b not found: {REQUEST})"


def test_the_text_of_an_error_of_delta_lake_has_no_colours() -> None:
    arrow = "\n  \x1b[31m↳\x1b[0m "
    assert (
        error_text(OSError(arrow.join(["Generic S3 error", REQUEST, "denied"]))) == f"Generic S3 error {REQUEST} denied"
    )
    refused = arrow.join([f"{REQUEST} - {STATUS}", "403 Forbidden", "denied"])
    assert error_text(OSError(refused)) == f"403 Forbidden denied ({REQUEST})"
