"""The conformance suites say what they leave out, and leave nothing out where they are strict."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

SUITES = """
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.testing import DestinationConformance, FakeDestination, MemoryStateStore
from airflow_reverse_etl.testing import StateStoreConformance
import pytest


class Remote:
    def __init__(self):
        self.destination = FakeDestination()

    def create(self, mode):
        return self.destination

    async def stored(self):
        return {key: row["name"] for key, row in self.destination.rows.items()}

    async def stop(self):
        self.destination.dials.unsent = [1]


class TestLenient(DestinationConformance):
    operations = frozenset(Operation) - {Operation.DELETE}

    @pytest.fixture
    def remote(self):
        return Remote()


class TestStrict(TestLenient):
    strict = True
    impossible = {"revoke": "it has no credentials"}


class Store(MemoryStateStore):
    changed_fields = None  # as of a store without that ability


class TestLenientStore(StateStoreConformance):
    @pytest.fixture
    def store(self):
        return Store()


class TestStrictStore(TestLenientStore):
    strict = True
"""


@pytest.mark.long
def test_what_is_missing_is_a_reason_to_skip_and_in_a_strict_suite_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_suites.py").write_text(SUITES)
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--junitxml=results.xml"]
    subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, check=False)
    told = defaultdict(set)
    for case in ElementTree.parse(tmp_path / "results.xml").iter("testcase"):
        for end in case:
            told[case.get("classname", "").removeprefix("test_suites.")].add((end.tag, end.get("message", "")))
    delete = ("skipped", "the destination does not delete")
    lacks = [f"the remote has no method {name!r}" for name in ("bad", "throttle", "lose_answer")]
    conflicts = ("skipped", "the destination does not report conflicts")
    replaces = ("skipped", "the destination does not replace its whole content")
    way_out = "write it, or say in `impossible` why it cannot be"
    ability = "the store does not have the ability FieldTracking"
    assert told == {
        "TestLenient": {
            delete,
            conflicts,
            replaces,
            *(("skipped", text) for text in [*lacks, "the remote has no method 'revoke'"]),
        },
        "TestStrict": {
            delete,
            conflicts,
            replaces,
            ("skipped", "it has no credentials"),
            *(("error", f'failed on setup with "Failed: {text}: {way_out}"') for text in lacks),
        },
        "TestLenientStore": {("skipped", ability)},
        "TestStrictStore": {("error", f'failed on setup with "Failed: {ability}"')},
    }
