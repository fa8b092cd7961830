"""Directions of imports, what a DAG file pays for ours, and pictures that must not lie."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_reverse_etl
from airflow_reverse_etl import errors
from tests.fresh import REPOSITORY, python

ROOT = Path(airflow_reverse_etl.__file__).parent
ENGINE = [
    "check",
    "dbt",
    "dbt_cloud",
    "destinations",
    "git",
    "http",
    "spec",
    "sql",
    "stores",
    "sync",
    "testing",
    "warehouses",
]
HEAVY = ["aiohttp", "dbt", "deltalake", "duckdb", "git", "obstore", "orjson", "pandas", "polars", "pyarrow", "sqlglot"]


def modules(*packages: str) -> list[str]:
    """Names of all modules in these packages of ours."""
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    names = [".".join(("airflow_reverse_etl", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]
    return sorted(name.removesuffix(".__init__") for name in names)


def test_imports_go_in_one_direction(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The contracts of pyproject.toml hold."""
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(REPOSITORY)
    status = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_engine_runs_without_airflow() -> None:
    """Every module of the engine and its adapters is imported where ``airflow`` cannot be."""
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "airflow":
            raise AssertionError("imports airflow: " + name)
sys.meta_path.insert(0, Block())
for name in {[*modules(*ENGINE), "airflow_reverse_etl.errors"]!r}:
    importlib.import_module(name)
from airflow_reverse_etl import Sync
"""
    python(code)


def loaded(code: str) -> set[str]:
    """Which heavy packages are loaded after the code ran."""
    names = f"[name for name in {HEAVY!r} if name in sys.modules]"
    return set(python(f"{code}\nimport sys\nprint()\nprint(*{names})").splitlines()[-1].split())  # Airflow prints too


@pytest.mark.long
@pytest.mark.airflow
def test_a_dag_file_loads_nothing_heavy() -> None:
    """Importing every operator, sensor, trigger and hook loads no driver that ``airflow.sdk`` does not load itself."""
    face = """
import airflow_reverse_etl as root
import airflow_reverse_etl.operators, airflow_reverse_etl.sensors, airflow_reverse_etl.triggers
import airflow_reverse_etl.hooks
for package in (root, root.operators, root.sensors, root.triggers, root.hooks):
    for name in getattr(package, "__all__", ()):
        getattr(package, name)
"""
    base = "from airflow.sdk import *\nfrom airflow.triggers.base import BaseTrigger"
    assert loaded(f"{base}\n{face}") - loaded(base) == set()


def test_importing_the_package_imports_nothing_else() -> None:
    """``import airflow_reverse_etl`` and its packages load neither pydantic nor Airflow: Airflow imports them early."""
    code = """
import sys
import airflow_reverse_etl.provider, airflow_reverse_etl.operators, airflow_reverse_etl.hooks
airflow_reverse_etl.provider.get_provider_info()
print(*[name for name in ("airflow", "pydantic", "yaml", "jinja2") if name in sys.modules])
"""
    assert python(code).split() == []


def test_the_drawn_error_tree_is_the_class_tree() -> None:
    """The picture in the module's docstring names every error, in its place, with one line on each."""
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^    ([│├└─ ]*)(\w+Error)\b(.*)$", line):
            depth = len(found.group(1)) // 4
            drawn.append((depth, found.group(2)))
            assert depth == 0 or found.group(3).strip(), f"{found.group(2)} is not explained"
    assert drawn == list(tree(errors.ReverseEtlError))


def tree(cls: type, depth: int = 0) -> Iterator[tuple[int, str]]:
    yield depth, cls.__name__
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child, depth + 1)


@pytest.mark.parametrize("name", [*modules("."), "airflow_reverse_etl"])
def test_every_public_name_is_documented(name: str) -> None:
    """Modules, their classes and functions, and the methods of what is exported, have a docstring."""
    file = ROOT.joinpath(*name.split(".")[1:])
    source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    module = ast.parse(source.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(module) else ["the module"]
    definitions = [
        node for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    missing += [node.name for node in definitions if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert missing == []


#: One module for each thing, without end: a destination, a database, a command.
LEAVES = {"cli", "destinations", "dialects"}


def test_a_room_has_at_most_twelve_modules() -> None:
    """More is two rooms."""
    folders = {file.parent for file in ROOT.rglob("*.py")}
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder in folders
        if (count := len(list(folder.glob("[!_]*.py")))) > 12 and folder.name not in LEAVES
    }
    assert crowded == {}


def test_no_test_module_imports_another() -> None:
    """What several of them use is in a module beside them, and fixtures are in ``conftest.py``."""
    imported = re.compile(r"^\s*(from|import) tests\.([a-z_]+\.)*test_", re.MULTILINE)
    files = [*(REPOSITORY / "tests").rglob("test_*.py")]
    assert len(files) > 100
    assert [file.name for file in files if imported.search(file.read_text(encoding="utf-8"))] == []


def test_every_module_of_an_operator_needs_airflow() -> None:
    """What does not is engine or adapter, and has a room."""
    folders = ("airflow_reverse_etl.operators", "airflow_reverse_etl.operators.groups")
    names = [name for name in modules("operators") if name not in folders]
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "airflow":
            raise AssertionError("imports airflow: " + name)
sys.meta_path.insert(0, Block())
for name in {names!r}:
    try:
        importlib.import_module(name)
    except AssertionError:
        continue
    print(name)
"""
    assert python(code).split() == []
