"""dbt Cloud's answers are read as documented, and deliveries are trusted only if they are signed and fresh."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.dbt_cloud.models import CloudRun, RunStatus, base_url, model_results, parse_time
from airflow_reverse_etl.dbt_cloud.webhooks import Delivery, is_signed, sign
from airflow_reverse_etl.errors import ConfigurationError
from tests.dbt_cloud.server import BODY

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "https://cloud.getdbt.com"),
        ("", "https://cloud.getdbt.com"),
        ("acme", "https://acme.getdbt.com"),
        ("emea.dbt.com", "https://emea.dbt.com"),
        ("ab123.us1.dbt.com", "https://ab123.us1.dbt.com"),
        ("https://ab123.eu2.dbt.com/", "https://ab123.eu2.dbt.com"),
        ("dbt.acme.example", "https://dbt.acme.example"),
        ("dbt.acme.example:8443", "https://dbt.acme.example:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_any_way_to_write_a_host_works(host: str | None, url: str) -> None:
    assert base_url(host) == url


@pytest.mark.parametrize(
    "host", ["http://cloud.getdbt.com", "ftp://x", "https://user:secret@x.example", "a.example/api"]
)
def test_a_host_that_would_leak_the_token_or_is_none_is_refused_without_repeating_it(host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        base_url(host)
    assert "secret" not in str(caught.value)


def test_a_run_survives_json() -> None:
    run = CloudRun(7, 3, RunStatus.SUCCESS, NOW, "abc", "main", 1, 2, "https://x/7")
    assert CloudRun.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_times_without_offset_are_utc() -> None:
    assert parse_time("2026-11-21 12:00:00.000000") == parse_time("2026-11-21 12:00:00+00:00") == NOW


def test_a_run_with_a_finish_time_but_no_final_status_has_not_ended() -> None:
    assert not CloudRun(1, 1, RunStatus.RUNNING, NOW).ended
    assert not CloudRun(1, 1, RunStatus.SUCCESS, None).ended


def test_the_documented_delivery_is_read() -> None:
    delivery = Delivery.from_body(json.dumps(BODY).encode())
    assert (delivery.run.id, delivery.run.job_id, delivery.account_id) == (12345, 123, 1)
    assert delivery.run.finished_at == datetime(2026, 11, 21, 11, 59, 58, 500000, tzinfo=UTC)
    assert delivery.is_success


@pytest.mark.parametrize(
    ("event", "code", "success"),
    [
        ("job.run.completed", 10, True),
        ("job.run.completed", 20, False),
        ("job.run.errored", 20, False),
        ("job.run.started", 3, False),
    ],
)
def test_only_a_completed_successful_run_counts(event: str, code: int, *, success: bool) -> None:
    body = {**BODY, "eventType": event, "data": {**BODY["data"], "runStatusCode": code}}  # type: ignore[dict-item]
    assert Delivery.from_body(json.dumps(body).encode()).is_success is success


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        lambda x: json.dumps(x).encode()
    )
)
def test_any_other_body_is_a_value_error_and_nothing_else(body: bytes) -> None:
    with pytest.raises(ValueError):
        Delivery.from_body(body)


def test_old_and_future_deliveries_are_not_fresh() -> None:
    delivery = Delivery.from_body(json.dumps(BODY).encode())
    assert delivery.is_fresh(NOW + timedelta(minutes=59))
    assert not delivery.is_fresh(NOW + timedelta(minutes=61))
    assert not delivery.is_fresh(NOW - timedelta(minutes=10))


@given(st.binary(), st.text(min_size=1))
def test_the_signature_is_hmac_sha256_of_the_raw_body(body: bytes, secret: str) -> None:
    assert sign(body, secret) == hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert is_signed(body, sign(body, secret), ["another", secret])
    assert not is_signed(body + b" ", sign(body, secret), [secret])
    assert not is_signed(body, sign(body, secret), [secret + "x"])
    assert not is_signed(body, None, [secret])
    assert not is_signed(body, sign(body, secret), [])


def test_results_come_from_all_steps_and_the_last_word_counts() -> None:
    steps = [
        {
            "results": [
                {"unique_id": "model.a.customers", "status": "error"},
                {"unique_id": "model.a.x", "status": "success"},
            ]
        },
        {"results": [{"unique_id": "model.a.customers", "status": "success"}]},
        {"results": [{"unique_id": "test.a.t", "status": "pass"}]},
        {},
    ]
    assert model_results(steps) == {"model.a.customers": "success", "model.a.x": "success", "test.a.t": "pass"}
