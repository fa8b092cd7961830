"""A hostile repository: a pull request's author writes what git, dbt and the check read. git and dbt are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_reverse_etl.check.project.loader import ProjectLoader
from airflow_reverse_etl.check.project.rendering import render
from airflow_reverse_etl.cli.main import main
from airflow_reverse_etl.dbt.runner import DbtProject
from airflow_reverse_etl.errors import ConfigurationError, ProjectError, ReverseEtlError
from airflow_reverse_etl.git.credentials import Credentials
from airflow_reverse_etl.git.repository import Repository
from tests.dbt.projects import keyed, manifest, model
from tests.git.servers import HttpServer, Origin, git

PROJECT = "name: shop\nversion: '1.0'\nprofile: shop\n"
SYNC = "name: a\nmodel: customers\nsource: w\ndestination: {type: http}\nmapping: {email: email}\n"


def local(origin: Origin) -> Repository:
    return Repository(str(origin.bare), allow_protocols=("file",))


# -- git -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["/etc/passwd", "../../../../etc/passwd", "/proc/self/environ"])
def test_a_link_out_of_the_tree_is_a_text_of_where_it_would_lead(origin: Origin, tmp_path: Path, link: str) -> None:
    (origin.work / "analytics/models/leak.sql").symlink_to(link)
    (origin.work / "analytics/macros").symlink_to(Path(link).parent)
    folder = local(origin).checkout(origin.commit({}), path="analytics", under=tmp_path / "c")
    assert (folder / "models/leak.sql").read_text() == link
    assert [
        path for path in folder.parent.rglob("*") if path.is_symlink() or (path.is_dir() and path.name == "macros")
    ] == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("url", "refusal"),
    [
        ("ext::sh -c 'touch {}'", "transport 'ext' not allowed"),
        ("fd::17/{}", "transport 'fd' not allowed"),
        ("file://{}", "transport 'file' not allowed"),
        ("ssh://-oProxyCommand=touch {}/x", "transport 'ssh' not allowed"),
        ('../x.git"\n\tupdate = "!touch {}', "submodule.x.update"),
    ],
)
def test_a_submodule_is_no_way_to_run_or_read_something(
    origin: Origin, http: HttpServer, tmp_path: Path, url: str, refusal: str
) -> None:
    """Even with submodules enabled, only the connection's protocols apply to them, and their commands do not run."""
    marker = tmp_path / "ran"
    (origin.work / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = analytics/x\n\turl = "{url.format(marker)}"\n')
    git(origin.work, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},analytics/x")
    (origin.work / "analytics/x").mkdir()
    commit = origin.commit({}, "with a submodule")
    plain = Repository(http.url(), Credentials(token=http.token), allow_protocols=("http",))
    with pytest.raises(ReverseEtlError, match=refusal):
        replace(plain, submodules=True).checkout(commit, path="analytics", under=tmp_path / "c")
    assert plain.checkout(commit, path="analytics", under=tmp_path / "c").is_dir()
    assert not marker.exists()


def test_hooks_of_the_worker_are_not_run_on_a_hostile_checkout(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, home = tmp_path / "ran", tmp_path / "home"
    hook = home / "template/hooks/post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    filters = f'[filter "evil"]\n\tsmudge = touch {marker}\n'
    (home / ".gitconfig").write_text(
        f"[init]\n\ttemplateDir = {home}/template\n[core]\n\thooksPath = {hook.parent}\n\tfsmonitor = {hook}\n{filters}"
    )
    monkeypatch.setenv("HOME", str(home))
    commit = origin.commit({"analytics/.gitattributes": "*.sql filter=evil\n"})
    assert marker.unlink(missing_ok=True) is None
    local(origin).checkout(commit, path="analytics", under=tmp_path / "c")
    assert not marker.exists()
    subprocess.run(["git", "clone", "-q", str(origin.bare), str(tmp_path / "usual")], check=True)
    assert marker.exists()  # plain git would have run the hook


@pytest.mark.parametrize("ref", ["--upload-pack=touch {}", "-u", "--output={}", "main --help", "a..b", "main\n--x"])
def test_a_ref_is_never_an_option(
    origin: Origin, tmp_path: Path, ref: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"
    ref = ref.format(marker)
    with pytest.raises(ConfigurationError):
        local(origin).head(ref)
    with pytest.raises(ConfigurationError):
        local(origin).checkout("1" * 40, path="analytics", under=tmp_path / "c", ref=ref)
    monkeypatch.chdir(origin.work)
    assert main(["check", f"--base={ref}", "--head=.", "--syncs=."]) == 2
    assert "not a manifest, a folder or a ref" in capsys.readouterr().err
    assert not marker.exists()


# -- dbt -------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_projects_jinja_sees_no_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real dbt runs on a ref, as in a CI job that has secrets. None of them gets into the manifest, whose text goes to
    logs and comments.
    """
    secrets = ("GITHUB_TOKEN", "AIRFLOW_CONN_CRM", "AWS_SECRET_ACCESS_KEY", "SNOWFLAKE_PASSWORD")
    for name in (*secrets, "GIVEN"):
        monkeypatch.setenv(name, "h0stile-loot")
    read = ", ".join(f"env_var('{name}', 'nothing')" for name in (*secrets, "GIVEN"))
    repository = Origin.create(tmp_path / "git")
    repository.commit(
        {
            "dbt_project.yml": PROJECT + "target-path: ../../outside\nlog-path: ../../outside\n",
            "models/customers.sql": "{{ config(tags=all_of_it()) }} select 1 as id",
            "macros/all.sql": f"{{% macro all_of_it() %}}{{{{ return([{read}]) }}}}{{% endmacro %}}",
        }
    )
    monkeypatch.chdir(repository.work)
    side = ProjectLoader(env={"GIVEN": "given"}).load("HEAD")
    tags = side.nodes["model.shop.customers"]["config"]["tags"]
    assert tags == ["nothing"] * len(secrets) + ["given"]
    assert "h0stile-loot" not in json.dumps(side.nodes)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "place", ["../victim", "/{}/victim", "a/../../victim", "{{{{ env_var('HOME') }}}}", "$HOME", "~/x", "."]
)
def test_dbt_deps_removes_no_folder_outside_the_project(tmp_path: Path, place: str) -> None:
    """``dbt deps`` begins by removing packages-install-path."""
    project, victim = tmp_path / "project", tmp_path / "victim"
    for folder in (project, victim):
        folder.mkdir()
    (victim / "precious").touch()
    (project / "dbt_project.yml").write_text(f'{PROJECT}packages-install-path: "{place.format(tmp_path)}"\n')
    (project / "packages.yml").write_text("packages:\n  - local: ../victim\n")
    with pytest.raises(ProjectError, match="outside its own folder"):
        DbtProject(project).install_packages(movable=True)
    assert (victim / "precious").exists()


# -- the check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% if i %}{% for j in range(99999) %}x{% endfor %}{% endif %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ '%09999999999d' % 1 }}",
        "{{ 'x'.ljust(10 ** 10) }}",
        "{{ 'x' | center(9999999999) }}",
        "{{ 'x' | replace('x', 'xxxx') | replace('x', 'xxxx') }}",
        "{% set a = 'xx' %}" + "".join(f"{{% set {y} = {x} ~ {x} %}}" for x, y in ["ab", "ba"] * 30) + "{{ a }}",
        "{% set a %}xx{% endset %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 60 + "{{ a }}",
        "x" * 2_000_000,
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{{ ref.__globals__ }}",
    ],
)
def test_a_template_that_would_not_end_is_not_run(template: str) -> None:
    """The template's result is then unknown, so that the change needs review."""
    started = time.process_time()
    assert render(template, ref=lambda name: name) is None
    assert time.process_time() - started < 2


def test_templates_of_honest_models_are_read() -> None:
    loop = "{% set of = ['a', 'b'] %}select {% for c in of %}{{ c | upper }}{{ ', ' if not loop.last }}{% endfor %}"
    assert render(loop + " from {{ ref('x') }}", ref=lambda name: f"t_{name}") == "select A, B from t_x"
    pairs = "{% for k, v in {'a': 1}.items() %}{{ v }} as {{ k }}{% endfor %}"
    assert render(pairs) == "1 as a"


@pytest.mark.long
def test_a_manifest_of_a_hundred_megabytes(tmp_path: Path) -> None:
    """Reading takes a few times the file's size in memory, and seconds."""
    big = manifest(model("customers", "select 1 as id, 'x' as email"), *keyed("customers"))
    path = tmp_path / "big.json"
    text = json.dumps({**big, "macros": {f"macro.x.{n}": {"macro_sql": "x" * 100_000} for n in range(1000)}})
    path.write_text(text)
    assert path.stat().st_size > 100_000_000
    (tmp_path / "a.yaml").write_text(SYNC)
    script = (
        "import sys; from airflow_reverse_etl.cli.main import main; from tests.peak import peak;"
        " code = main(); print(peak(), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "check", "--base", str(path), "--head", str(path), "--syncs"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "a.yaml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert process.stderr
    with process.stderr as told:
        peak = int(told.read())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert peak < 700_000_000
    assert used.ru_utime + used.ru_stime < 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 1_000_000, "recursion"),
        ('{"nodes": {}, "metadata": 1, "x": ' + "9" * 5000 + "}", "digits"),
        ("\0", "cannot"),
    ],
)
def test_a_manifest_that_is_a_trap_is_an_error_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    assert main(["check", "--base", str(path), "--head", str(path), "--syncs", "x"]) == 2
    error = capsys.readouterr().err
    assert "manifest.json cannot be read" in error
    assert said in error


def test_a_file_larger_than_any_manifest_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "manifest.json"
    path.touch()
    os.truncate(path, (1 << 30) + 1)  # a sparse file, which needs no disk space
    assert main(["check", "--base", str(path), "--head", str(path), "--syncs", "x"]) == 2
    assert "larger than 1 GiB" in capsys.readouterr().err
