"""What Airflow is told about this package is complete, valid, and true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distribution, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import airflow_reverse_etl
from airflow_reverse_etl.provider import get_provider_info
from tests.fresh import python

pytestmark = pytest.mark.airflow

ROOT = Path(airflow_reverse_etl.__file__).parent
INFO = get_provider_info()


def test_it_is_valid() -> None:
    """By the schema that Airflow ships."""
    import jsonschema

    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


def test_it_is_found_by_its_entry_point() -> None:
    """Airflow refuses a provider whose name is not its distribution's."""
    (point,) = [found for found in entry_points(group="apache_airflow_provider") if found.module.startswith(ROOT.name)]
    assert point.load()() == INFO
    assert INFO["package-name"] == distribution("airflow-provider-reverse-etl").name


def named(value: Any, key: str = "") -> Iterator[str]:
    """Every dotted name in the provider information that should be importable."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from named(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from named(item, key)
    elif isinstance(value, str) and value.startswith(f"{ROOT.name}."):
        yield value


@pytest.mark.parametrize("name", sorted(set(named(INFO))))
def test_what_it_names_exists(name: str) -> None:
    """Modules and classes alike."""
    try:
        import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute)


@pytest.mark.parametrize("kind", ["operators", "sensors", "triggers", "hooks"])
def test_every_module_is_listed(kind: str) -> None:
    """Nothing that a DAG author can use is left out."""
    there = {f"{ROOT.name}.{kind}.{file.stem}" for file in (ROOT / kind).glob("[!_]*.py")}
    listed = {name for group in INFO.get(kind, []) for name in group["python-modules"]}
    assert listed == there


def test_every_operator_link_is_listed() -> None:
    """A link that is not listed does not survive serialization."""
    from airflow_reverse_etl import operators

    links = {
        f"{type(link).__module__}.{type(link).__qualname__}"
        for name in operators.__all__
        for link in getattr(getattr(operators, name), "operator_extra_links", ())
    }
    assert links == set(INFO["extra-links"])


def test_the_configuration_is_explained() -> None:
    """Each option says what it is for, since when, and shows an example."""
    for name, option in INFO["config"]["reverse_etl"]["options"].items():
        assert set(option) == {"description", "version_added", "type", "example", "default"}, name
        assert option["description"].endswith("."), name
        assert option["example"], name


@pytest.mark.parametrize("declared", INFO["connection-types"], ids=lambda declared: declared["connection-type"])
def test_the_connection_form_is_the_same_on_every_airflow(declared: dict[str, Any]) -> None:
    """Airflow 3.2 and later read it from the provider information, 3.1 from the hook's methods."""
    module, _, name = declared["hook-class-name"].rpartition(".")
    hook = getattr(import_module(module), name)
    assert (hook.conn_type, hook.hook_name) == (declared["connection-type"], declared["hook-name"])
    behaviour = {key.replace("_", "-"): value for key, value in hook.get_ui_field_behaviour().items()}
    assert behaviour == declared["ui-field-behaviour"]
    assert callable(hook.test_connection)


def test_airflow_shows_the_connection_form() -> None:
    """The form that the UI asks the API server for has our fields, on this Airflow. As in a server: a fresh process."""
    code = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
found = {meta.connection_type: sorted(meta.extra_fields or {}) for meta in HookMetaService.hook_meta_data()}
print()
print(json.dumps(found))
"""
    shown = json.loads(python(code).splitlines()[-1])
    for declared in INFO["connection-types"]:
        assert shown[declared["connection-type"]] == sorted(declared["conn-fields"])
