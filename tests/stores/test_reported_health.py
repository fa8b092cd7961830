"""The health that was reported last: each change is reported once, and none gets lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.reported_health import HealthMemory

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def memory(tmp_path: Path) -> HealthMemory:
    return HealthMemory(StateFiles(str(tmp_path)), "", "contacts to crm")


def change(memory: HealthMemory, health: str, now: datetime = NOW) -> list[str]:
    """Report a health; return the health before, or nothing if there was nothing to report."""
    reported: list[str] = []
    memory.change(health, lambda before: reported.append(before.health if before else ""), now=now)
    return reported


def test_a_change_is_reported_once_and_so_is_the_recovery(memory: HealthMemory) -> None:
    assert change(memory, "failing") == [""]
    assert change(memory, "failing") == []
    assert change(memory, "ok") == ["failing"]
    assert change(memory, "ok") == []


def test_the_time_is_that_of_the_change(memory: HealthMemory) -> None:
    change(memory, "failing")
    change(memory, "failing", NOW + timedelta(hours=1))
    reported = memory.reported()
    assert reported is not None
    assert reported.since == NOW


def test_a_report_that_failed_is_repeated(memory: HealthMemory) -> None:
    def fails(_: Any) -> None:
        raise OSError("Slack is down")

    with pytest.raises(OSError, match="Slack"):
        memory.change("failing", fails, now=NOW)
    assert change(memory, "failing") == [""]


def test_a_report_whose_process_was_killed_is_repeated_after_a_while(memory: HealthMemory) -> None:
    version, _ = memory._values.read()
    memory._values.swap(version, {"reporting": "failing", "reporting_at": NOW.isoformat()})
    assert change(memory, "failing", NOW + timedelta(minutes=1)) == [], "it may be at work"
    assert change(memory, "failing", NOW + timedelta(minutes=11)) == [""]


def test_of_two_workers_at_once_one_reports(memory: HealthMemory, tmp_path: Path) -> None:
    other = HealthMemory(StateFiles(str(tmp_path)), "", "contacts to crm")
    reported: list[str] = []

    def slowly(_: Any) -> None:
        reported.append("first")
        other.change("failing", lambda _: reported.append("second"), now=NOW)

    memory.change("failing", slowly, now=NOW)
    assert reported == ["first"]


def test_each_environment_has_a_memory_of_its_own(memory: HealthMemory, tmp_path: Path) -> None:
    change(memory, "failing")
    assert HealthMemory(StateFiles(str(tmp_path)), "dev", "contacts to crm").reported() is None


def test_the_first_look_is_remembered(memory: HealthMemory) -> None:
    assert memory.first_seen(NOW) == NOW
    assert memory.first_seen(NOW + timedelta(days=1)) == NOW
    change(memory, "late")
    assert memory.first_seen(NOW + timedelta(days=1)) == NOW
