"""The documentation says what the code does: tables are generated, snippets run, nothing public is left out."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from airflow_reverse_etl import Sync, errors
from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy
from tests.generated import (
    FACE,
    REFERENCE,
    ROOT,
    SCHEMA,
    commands,
    generated,
    options_of,
    parameters,
    split_docstring,
)

pytestmark = pytest.mark.airflow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SNIPPET = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)

#: What a piece of a sync is completed with, to be checked as a whole.
COMPLETE: dict[str, Any] = {
    "name": "snippet",
    "model": "customers",
    "source": "warehouse",
    "destination": {"type": "http", "connection": "crm", "object": "contacts", "path": "/contacts"},
    "mapping": {"email": "email"},
}


def snippets(page: Path, *languages: str) -> list[tuple[int, str]]:
    """(line, code) of each snippet in these languages."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start()) + 1, textwrap.dedent(found[3]))
        for found in _SNIPPET.finditer(text)
        if found[2] in languages
    ]


def of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "python")], ids=of)
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, one after the other, in one namespace: defining DAGs, syncs and destinations is enough."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "snippet", "__file__": str(tmp_path / "dag.py")}
    for line, code in snippets(page, "python"):
        exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "yaml", "yml")], ids=of)
def test_yaml_snippets_are_valid(page: Path) -> None:
    """Syncs and privacy policies are checked, a piece of a sync as part of one; anything else must at least be YAML."""
    from airflow_reverse_etl.destinations.registry import check_options

    for line, text in snippets(page, "yaml", "yml"):
        values = yaml.safe_load(text)
        if isinstance(values, dict) and set(values) <= set(Sync.model_fields):
            try:
                Sync.load({**COMPLETE, **values}, check=check_options)
            except errors.SpecError as error:
                pytest.fail(f"{of(page)}:{line}: {error}")
        elif isinstance(values, dict) and "destinations" in values:
            PrivacyPolicy.model_validate(values)


def test_generated_files_are_up_to_date() -> None:
    """If not: make schema."""
    old = [of(path) for path, text in generated() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert old == []


def test_the_shipped_schema_is_a_schema_of_syncs() -> None:
    """It accepts what the README shows, and refuses an unknown key, as validation itself does."""
    import jsonschema

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(COMPLETE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**COMPLETE, "mod": "upsert"}, schema)


def every_parameter(thing: Any) -> set[str]:
    """Those that Airflow's base classes take, too."""
    if not inspect.isclass(thing):
        return set(parameters(thing))
    return {
        name for cls in thing.__mro__ if "__init__" in vars(cls) for name in inspect.signature(cls.__init__).parameters
    }


@pytest.mark.parametrize("kind", FACE)
def test_every_parameter_is_explained(kind: str) -> None:
    """Of each public operator, sensor, trigger and hook, and no parameter is explained that is not there."""
    package = import_module(f"airflow_reverse_etl.{kind}")
    for name in package.__all__:
        thing = getattr(package, name)
        explained = split_docstring(thing)[1]
        assert [own for own in parameters(thing) if not explained.get(own)] == [], name
        assert set(explained) <= every_parameter(thing), name


def test_every_key_is_explained() -> None:
    """No empty meaning in a table of keys: of syncs, of what is in them, of what destination types add."""
    rows, empty = 0, []
    for page in REFERENCE.glob("*.md"):
        in_table = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            in_table = line.startswith("| key | type |") or (in_table and line.startswith("|"))
            rows += in_table
            if in_table and line.endswith("|  |"):
                empty.append(f"{of(page)}:{number}: {line.split('|')[1].strip()}")
    assert rows > 50
    assert empty == []


def test_every_option_of_the_command_line_is_explained() -> None:
    """By its help text, which the reference page repeats."""
    from airflow_reverse_etl.cli.main import build_program

    for name, command in commands(build_program()):
        assert command.help, name
        assert [parameter.name for parameter in options_of(command) if not parameter.help] == [], name


def test_every_error_is_documented() -> None:
    """By name, with its group."""
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    for name, cls in vars(errors).items():
        if inspect.isclass(cls):
            assert f"`{name}`" in text


def test_every_destination_type_is_documented() -> None:
    """With a section of its own."""
    from airflow_reverse_etl.destinations.registry import known_types

    text = (REFERENCE / "destinations.md").read_text(encoding="utf-8")
    assert [name for name in known_types() if f"## `{name}`" not in text] == []


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Sphinx make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    anchors: set[str] = set()
    for title in re.findall(r"^#{1,4} (.+)$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", title.strip().lower()).replace(" ", "-")
        # A second heading of the same text has a number.
        anchors.add(f"{anchor}-{len([a for a in anchors if a.startswith(anchor)])}" if anchor in anchors else anchor)
    return anchors


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures, those in code left out."""
    text = re.sub(
        r"^ *```.*?^ *```|`[^`\n]+`", "code", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<(https?:[^>\s]+)>", text)


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files and headings of ours exist; others are addresses of https."""
    wrong = []
    for link in links(page):
        if "://" in link:
            parts = urlsplit(link)
            good = parts.scheme == "https" and "." in parts.netloc
        else:
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            good = target.exists() and (not anchor or anchor in headings(target))
        if not good:
            wrong.append(link)
    assert wrong == []
