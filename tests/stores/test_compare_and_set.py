"""Compare-and-set: exactly one of several writers that read the same version writes, whatever the storage."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_reverse_etl.errors import ConfigurationError, UnreachableError
from airflow_reverse_etl.stores.compare_and_set import FileValues, VersionedFile
from airflow_reverse_etl.stores.files import StateFiles
from tests.s3 import Bucket


@pytest.fixture(params=["folder", "object storage"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> StateFiles:
    if request.param == "folder":
        return StateFiles(str(tmp_path))
    bucket = request.getfixturevalue("bucket")
    return StateFiles(f"{bucket.url}/state", bucket.options)


def test_what_was_written_is_read(files: StateFiles) -> None:
    ledger = VersionedFile(files, "l")
    assert ledger.read() == (0, None)
    assert ledger.replace(0, "one")
    assert VersionedFile(files, "l").read() == (1, "one")


def test_a_writer_that_read_an_older_version_is_refused(files: StateFiles) -> None:
    mine, theirs = VersionedFile(files, "l"), VersionedFile(files, "l")
    assert theirs.replace(0, "theirs")
    assert not mine.replace(0, "mine")
    version, text = mine.read()
    assert (version, text) == (1, "theirs")
    assert mine.replace(version, "mine")


def test_a_number_that_was_deleted_is_not_won_again(files: StateFiles) -> None:
    """A writer that was stopped for days finds its number free, and the higher ones."""
    ledger = VersionedFile(files, "l")
    for version in range(3):
        assert ledger.replace(version, str(version))
    files.delete("l/000000000001.json")
    assert not ledger.replace(0, "late")
    assert ledger.read() == (3, "2")


@pytest.mark.parametrize(("kept", "left"), [(timedelta(days=1), 50), (timedelta(seconds=-2), 1)])
def test_numbers_are_deleted_after_their_time(files: StateFiles, kept: timedelta, left: int) -> None:
    ledger = VersionedFile(files, "l", kept=kept)
    for version in range(50):
        assert ledger.replace(version, "x")
    assert files.list("l")[-1] == "000000000050.json"
    assert len(files.list("l")) == left


def test_the_present_text_stays_however_old_it_is(tmp_path: Path) -> None:
    files = StateFiles(str(tmp_path))
    ledger = VersionedFile(files, "l")
    for version in range(49):
        ledger.replace(version, "x")
    for number in range(1, 50):
        os.utime(tmp_path / f"l/{number:012}.json", (0, number))
    assert VersionedFile(files, "l").read() == (49, "x")
    assert ledger.replace(49, "y")
    assert files.list("l") == ["000000000050.json"]


def test_a_change_whose_answer_was_lost_is_found_by_reading_again(bucket: Bucket) -> None:
    files = StateFiles(bucket.url, bucket.options)
    values = FileValues(files, "v")
    assert values.swap(0, {"a": "0"})
    bucket.dial(loses="v/000000000002.json")
    with pytest.raises(UnreachableError):
        values.swap(1, {"a": "1"})
    assert values.read() == (2, {"a": "1"})


def test_a_storage_without_conditional_writes_is_refused(bucket: Bucket) -> None:
    bucket.dial(ignores_conditions=True)
    files = StateFiles(f"{bucket.url}/state", bucket.options)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="ignores If-None-Match") as caught:
            VersionedFile(files, "l").replace(0, "x")
    assert "a folder that all workers share" in str(caught.value)
    assert bucket.keys() == ["state/created-once.txt"]


def test_a_folder_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    with pytest.raises(ConfigurationError, match="no hard links"):
        VersionedFile(StateFiles(str(tmp_path)), "l").replace(0, "x")
    assert list((tmp_path / "l").iterdir()) == []


@pytest.mark.parametrize("status", [403, 503])
def test_a_storage_that_refuses_is_unreachable(bucket: Bucket, status: int) -> None:
    bucket.dial(refuses=status)
    ledger = VersionedFile(StateFiles(bucket.url, bucket.options), "l")
    for call in (ledger.read, lambda: ledger.replace(0, "x")):
        with pytest.raises(UnreachableError) as caught:
            call()
        assert f"{status}" in str(caught.value)
        assert "Not now" in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert "Debug source" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_missing_bucket_is_unreachable(bucket: Bucket) -> None:
    ledger = VersionedFile(StateFiles("s3://missing/x", bucket.options), "l")
    for call in (ledger.read, lambda: ledger.replace(0, "x")):
        with pytest.raises(UnreachableError, match="NoSuchBucket"):
            call()


#: What each writer does: so many changes, each of which adds one to its own counter and to the sum of all.
WRITER = """
import json, random, sys, time
from airflow_reverse_etl.stores.compare_and_set import FileValues
from airflow_reverse_etl.stores.files import StateFiles

url, options, name, count = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
stored = FileValues(StateFiles(url, options), "counter")
print("ready", flush=True)
done = 0
while done < count:
    version, values = stored.read()
    found = int(values.get(name, 0))
    if found == done + 1:  # it was written, and called lost
        done = found
        continue
    assert found == done, f"{name} wrote {done}, and reads {found}"
    total = int(values.get("sum", 0)) + 1
    if stored.swap(version, {**values, name: str(done + 1), "sum": str(total)}):
        done += 1
    else:
        time.sleep(random.uniform(0, 0.01))
"""


@contextmanager
def writers(files: StateFiles, number: int, changes: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that change one counter, and wait until all of them can begin."""
    arguments = [files.url, json.dumps(files.storage_options)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments, f"w{index}", str(changes)], stdout=subprocess.PIPE, text=True
        )
        for index in range(number)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def counters(files: StateFiles) -> tuple[int, int, dict[str, int]]:
    """Return the version, the sum, and each writer's counter."""
    version, values = FileValues(files, "counter").read()
    counts = {name: int(value) for name, value in values.items()}
    return version, counts.pop("sum"), counts


@pytest.mark.slow
def test_eight_processes_lose_no_update(files: StateFiles) -> None:
    with writers(files, 8, changes=8) as processes:
        assert [process.wait(120) for process in processes] == [0] * 8
    version, total, counts = counters(files)
    assert version == total == 64
    assert counts == {f"w{index}": 8 for index in range(8)}


@pytest.mark.long
def test_a_writer_that_is_stopped_in_the_middle_overwrites_nothing(files: StateFiles) -> None:
    with writers(files, 4, changes=25) as processes:
        for _ in range(10):
            stopped = random.choice(processes)
            stopped.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            stopped.send_signal(signal.SIGCONT)
        assert [process.wait(120) for process in processes] == [0] * 4
    version, total, counts = counters(files)
    assert version == total == 100
    assert counts == {f"w{index}": 25 for index in range(4)}


@pytest.mark.long
def test_killed_writers_leave_whole_changes_and_hinder_nobody(files: StateFiles) -> None:
    with writers(files, 4, changes=1000) as processes:
        for process in processes:
            time.sleep(random.uniform(0.1, 0.3))
            process.kill()
            process.wait()
        version, total, counts = counters(files)
        assert version == total == sum(counts.values())
    with writers(files, 1, changes=0) as [process]:
        assert process.wait(60) == 0
    assert FileValues(files, "counter").swap(version, {"sum": "0"})
