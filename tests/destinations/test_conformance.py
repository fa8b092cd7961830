"""Each destination type of this package passes the conformance suite with all powers of a remote."""

from __future__ import annotations

from importlib import import_module

import pytest

from airflow_reverse_etl.destinations.registry import BUILT_IN
from airflow_reverse_etl.testing import DestinationConformance

#: Modules that run the suite, by type.
SUITES = {
    "http": "tests.destinations.test_json_api",
    "hubspot": "tests.servers.test_hubspot_type",
    "salesforce": "tests.servers.test_salesforce_type",
    "table": "tests.destinations.test_table",
    "file": "tests.destinations.test_file",
}


@pytest.mark.parametrize("type_", BUILT_IN)
def test_a_type_passes_the_conformance_suite_with_all_powers(type_: str) -> None:
    suite = import_module(SUITES[type_]).TestConformance
    assert issubclass(suite, DestinationConformance)
    assert suite.strict, "a power that the remote does not have fails the suite"
