"""Marks as dbt declares them, and the policy's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import DestinationSpec
from airflow_reverse_etl.spec.privacy.marks import declared_marks
from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy

POLICY = """\
unknown: deny
destinations:
  - connection: hubspot_*
    object: contacts
    allow: [Email, name]
  - {type: file, allow: hashed email}
  - {connection: app_db, allow: "*"}
"""


@pytest.mark.parametrize(
    ("tags", "meta", "expected"),
    [
        ([], {}, None),
        (["crm", "piii"], {"owner": "x", "pii": None}, None),
        ([], {"pii": "Email"}, ("email",)),
        ([], {"pii": ["email", "name"]}, ("email", "name")),
        ([], {"pii": True}, ("pii",)),
        ([], {"pii": {"kind": "email"}}, ("pii",)),
        ([], {"pii": ""}, ("pii",)),
        ([], {"pii": "hashed  email"}, ("hashed email",)),
        ([], {"pii": False}, ()),
        ([], {"pii": "no"}, ()),
        (["pii"], {}, ("pii",)),
        (["PII: phone", "pii:name"], {}, ("name", "phone")),
        (["pii"], {"pii": False}, ("pii",)),
    ],
)
def test_marks_in_meta_and_tags(tags: list[str], meta: dict[str, Any], expected: tuple[str, ...] | None) -> None:
    assert declared_marks(tags, meta) == expected


def written(folder: Path, text: str) -> Path:
    path = folder / "privacy.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("destination", "mark", "is_allowed"),
    [
        ({"type": "hubspot", "connection": "hubspot_prod", "object": "contacts"}, "email", True),
        ({"type": "hubspot", "connection": "hubspot_prod", "object": "contacts"}, "hashed email", True),
        ({"type": "hubspot", "connection": "hubspot_prod", "object": "contacts"}, "phone", False),
        ({"type": "hubspot", "connection": "hubspot_prod", "object": "deals"}, "email", False),
        ({"type": "hubspot", "connection": "crm", "object": "contacts"}, "email", False),
        ({"type": "hubspot"}, "email", False),
        ({"type": "file", "connection": "sftp"}, "hashed email", True),
        ({"type": "file", "connection": "sftp"}, "email", False),
        ({"type": "table", "connection": "app_db"}, "anything", True),
        ({"type": "file", "connection": "app_db"}, "email", True),
    ],
)
def test_a_mark_goes_where_an_entry_allows_it(
    tmp_path: Path, destination: dict[str, str], mark: str, *, is_allowed: bool
) -> None:
    policy = PrivacyPolicy.load(written(tmp_path, POLICY))
    found = DestinationSpec.model_validate(destination)
    assert policy.allows(mark, found) == is_allowed
    assert policy.allows_unknown(found) == (found.connection == "app_db")


def test_all_problems_of_a_policy_come_at_once_with_their_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "unknown: maybe\ndestination: []\ndestinations:\n  - {allow: email}\n  - type: file\n    alow: email\n",
    )
    with pytest.raises(SpecError) as caught:
        PrivacyPolicy.load(path)
    problems = "\n".join(caught.value.problems)
    for line, word in ((1, "unknown"), (2, "did you mean 'destinations'"), (4, "names no destination"), (5, "allow")):
        assert any(f"{path}:{line}: " in one and word in one for one in caught.value.problems), problems
    assert f"{path}:6: destinations.1.alow: unknown key; did you mean 'allow'?" in problems


@pytest.mark.parametrize("text", ["[]", "unknown: [", "destinations: 3", "unknown: deny\nunknown: allow"])
def test_a_policy_that_cannot_be_read_allows_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match="privacy"):
        PrivacyPolicy.load(written(tmp_path, text))


def test_a_policy_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the privacy policy"):
        PrivacyPolicy.load(tmp_path / "nowhere.yaml")
