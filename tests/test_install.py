"""The files that a new user begins with: image, compose file, extras. No container engine is needed here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = ROOT / "compose.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_compose_file_is_valid() -> None:
    """Validate against the schema of the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_sets_what_exists() -> None:
    from airflow_reverse_etl.provider import get_provider_info

    service = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["airflow"]
    names = [name for name in service["environment"] if name.startswith("AIRFLOW__REVERSE_ETL__")]
    options = get_provider_info()["config"]["reverse_etl"]["options"]
    assert [name.removeprefix("AIRFLOW__REVERSE_ETL__").lower() for name in names] == ["state_url"]
    assert "state_url" in options


@pytest.mark.long
def test_the_image_has_the_files_that_the_package_is_built_from(tmp_path: Path) -> None:
    """Build the wheel from the files that the Dockerfile copies, as its pip does."""
    for line in re.findall(r"^COPY --chown=airflow:0 (.*)$", DOCKERFILE, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            place = tmp_path / "image" / target.strip("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    built = tmp_path / "image/opt/reverse-etl"
    command = [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(built)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert "airflow_reverse_etl/schemas/connection_types.json" in files.namelist()
        (metadata,) = (name for name in files.namelist() if name.endswith("/METADATA"))
        description = files.read(metadata).decode().partition("\n\n")[2]
    # The package index shows the README, and knows no relative links.
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert len(links) > 10
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


@pytest.mark.parametrize("text", [DOCKERFILE, (ROOT / "README.md").read_text(encoding="utf-8")])
def test_the_extras_that_are_named_exist(text: str) -> None:
    named = re.findall(r"airflow-provider-reverse-etl\[([a-z,-]+)\]|EXTRAS=([a-z,-]+)", text)
    extras = {extra for group in named for extra in "".join(group).split(",")}
    assert extras
    assert extras <= PROJECT["optional-dependencies"].keys()


def test_the_readme_names_every_extra() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| extra | for |") : text.index("## Try it")]
    assert set(re.findall(r"`([a-z-]+)`", table)) >= PROJECT["optional-dependencies"].keys()


def test_no_extra_brings_a_dbt_that_downloads_while_it_is_installed() -> None:
    """An extra with dbt, or with an adapter, limits dbt-core."""
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if any(requirement.startswith("dbt-") for requirement in requirements):
            assert "dbt-core>=1.8,<1.12" in requirements, extra
