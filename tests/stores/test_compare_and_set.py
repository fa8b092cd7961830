"""Compare-and-set: exactly one of several writers that read the same version writes, whatever the storage."""

from __future__ import annotations

import threading
from pathlib import Path

from airflow_reverse_etl.stores.compare_and_set import VersionedFile


def test_what_was_written_is_read(tmp_path: Path) -> None:
    ledger = VersionedFile(str(tmp_path / "l"))
    assert ledger.read() == (0, None)
    assert ledger.replace(0, "one")
    assert VersionedFile(ledger.url).read() == (1, "one")


def test_a_writer_that_read_an_older_version_is_refused(tmp_path: Path) -> None:
    mine, theirs = VersionedFile(str(tmp_path / "l")), VersionedFile(str(tmp_path / "l"))
    mine.read(), theirs.read()
    assert theirs.replace(0, "theirs")
    assert not mine.replace(0, "mine")
    version, text = mine.read()
    assert (version, text) == (1, "theirs")
    assert mine.replace(version, "mine")


def test_racing_writers_lose_no_update(tmp_path: Path) -> None:
    """This holds for the first write too, which creates the table."""
    won: list[str] = []

    def add(name: str) -> None:
        for number in range(6):
            ledger = VersionedFile(str(tmp_path / "l"))
            version, text = ledger.read()
            if ledger.replace(version, f"{text or ''} {name}{number}"):
                won.append(f"{name}{number}")

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    version, text = VersionedFile(str(tmp_path / "l")).read()
    assert sorted((text or "").split()) == sorted(won)
    assert version == len(won) >= 6


def test_it_stays_small(tmp_path: Path) -> None:
    ledger = VersionedFile(str(tmp_path / "l"))
    for version in range(60):
        ledger.read()
        assert ledger.replace(version, str(version))
    assert VersionedFile(ledger.url).read() == (60, "59")
