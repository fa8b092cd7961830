"""Tests of the workflow files in the how-to guide: each CI system accepts its file, and the commands work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.dbt.projects import keyed, manifest, model
from tests.git.servers import Origin, git

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/check-model-changes.md").read_text(encoding="utf-8")
PROJECT = "name: shop\nversion: '1.0'\nprofile: shop\n"
SYNC = "name: people\nmodel: customers\nsource: w\ndestination: {type: http}\nmapping: {email: email}\n"
SCHEMAS = {
    ".github/workflows/reverse-etl.yml": "vendor.github-workflows",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
    "bitbucket-pipelines.yml": "vendor.bitbucket-pipelines",
}


def snippet(name: str) -> str:
    """Return the YAML that the guide shows after a file's name."""
    found = re.search(rf"`{re.escape(name)}`(?:(?!```).)*```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_is_valid_for_its_ci_system(tmp_path: Path, name: str) -> None:
    """Validate against the schema that the CI system publishes."""
    file = tmp_path / Path(name).name
    file.write_text(snippet(name))
    command = [str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema", SCHEMAS[name], str(file)]
    if SCHEMAS[name] == "vendor.gitlab-ci":
        command[1:1] = ["--data-transform", "gitlab-ci"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def scripts() -> dict[str, str]:
    """Return the commands of each file, without the installation."""
    jobs = yaml.safe_load(snippet(".github/workflows/reverse-etl.yml"))["jobs"]
    step = yaml.safe_load(snippet("bitbucket-pipelines.yml"))["pipelines"]["pull-requests"]["**"][0]["step"]
    found = {
        "github": [step["run"] for step in jobs["check"]["steps"] if "run" in step],
        "gitlab": yaml.safe_load(snippet(".gitlab-ci.yml"))["reverse-etl"]["script"],
        "bitbucket": step["script"],
    }
    return {host: "\n".join(line for line in lines if not line.startswith("pip ")) for host, lines in found.items()}


@pytest.fixture
def repository(tmp_path: Path) -> Origin:
    """Create a project in ``analytics`` whose branch renames a column. Each commit has its manifest; dbt is not run."""
    origin = Origin.create(tmp_path / "git")
    for column in ("email", "mail"):
        found = manifest(model("customers", f"select 1 as id, 'x' as {column}"), *keyed("customers"))
        files = {"analytics/models/customers.sql": f"select 1 as id, 'x' as {column}", "syncs/people.yaml": SYNC}
        origin.commit({"analytics/dbt_project.yml": PROJECT, "analytics/manifest.json": json.dumps(found), **files})
    git(origin.work, "remote", "add", "origin", str(origin.bare))
    origin.push("HEAD~1:refs/heads/main")
    return origin


def programs(folder: Path) -> Path:
    """Write ``reverse-etl`` as an installed program, and a ``dbt`` that copies the commit's manifest."""
    folder.mkdir()
    (folder / "reverse-etl").write_text(f'#!/bin/sh\nexec {sys.executable} -m airflow_reverse_etl.cli.main "$@"\n')
    (folder / "dbt").write_text('#!/bin/sh\ncp manifest.json "$DBT_TARGET_PATH/manifest.json"\n')
    for program in folder.iterdir():
        program.chmod(0o755)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("host", ["github", "gitlab", "bitbucket"])
def test_the_commands_find_the_breaking_change(repository: Origin, tmp_path: Path, host: str) -> None:
    """Run them in a shell, with the CI system's variables. Reporting fails here; the exit code stays."""
    base = git(repository.work, "rev-parse", "HEAD~1")
    environment = {
        "PATH": f"{programs(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "BASE": base,
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
        "BITBUCKET_PR_DESTINATION_BRANCH": "main",
    }
    command = [
        "bash",
        "-e",
        "-c",
        scripts()[host].replace("reverse-etl check", "reverse-etl check --dbt $PWD/../../bin/dbt"),
    ]
    done = subprocess.run(
        command, cwd=repository.work, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert (
        "syncs/people.yaml:5: breaking: column email of customers is missing; it was probably renamed to mail"
        in done.stdout
    )
    assert f"could not report to {host}: the environment variable" in done.stderr
    assert host != "gitlab" or 'failures="1"' in (repository.work / "reverse-etl.xml").read_text()


@pytest.mark.long
def test_the_pre_commit_hook(repository: Origin, tmp_path: Path) -> None:
    """Its keys are valid, its pattern matches project and syncs, and its command stops the commit."""
    (local,) = yaml.safe_load(snippet(".pre-commit-config.yaml"))["repos"]
    (hook,) = local["hooks"]
    assert (local["repo"], hook["language"], hook["pass_filenames"]) == ("local", "system", False)
    assert set(hook) <= {"id", "name", "entry", "language", "pass_filenames", "files"}
    assert re.search(hook["files"], "analytics/models/customers.sql")
    assert not re.search(hook["files"], "README.md")
    sql = repository.work / "analytics/models/customers.sql"
    sql.write_text("select 1 as id")
    (repository.work / "syncs/people.yaml").write_text(SYNC.replace("email}", "mail}"))
    built = repository.work / "analytics/manifest.json"
    built.write_text(built.read_text().replace("'x' as mail", "2 as two"))
    programs(tmp_path / "bin")
    words = shlex.split(hook["entry"])
    command = [str(tmp_path / "bin" / words[0]), *words[1:], "--dbt", str(tmp_path / "bin/dbt")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=repository.work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "column mail of customers is missing" in done.stdout
