"""Tests of reports on the three Git hosts, against servers that keep to the published contracts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.check.findings import CheckReport, Finding, Level
from airflow_reverse_etl.check.reports.hosts import HOSTS, Reporter, from_environment
from airflow_reverse_etl.check.reports.markdown import MARKER
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, RepositoryNotFoundError, UnreachableError
from airflow_reverse_etl.spec.folders.reading import Place
from tests.check import hosts
from tests.check.hosts import SHA, TOKEN, Host, serve


def report(*levels: Level) -> CheckReport:
    findings = tuple(
        Finding("column-missing", level, "contacts", "model.shop.c", f"column c{n} is missing", (Place("s.yaml", 3),))
        for n, level in enumerate(levels)
    )
    return CheckReport("breaking", "main", "HEAD", ("contacts",), findings)


BROKEN, ODD, FINE = report(Level.BREAKING), report(Level.REVIEW), report()


@pytest.fixture(params=HOSTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(name: str) -> Iterator[Host]:
    with serve(getattr(hosts, name), Host()) as found:
        yield found


def reporter(name: str, host: Host, tmp_path: Path, **other: str) -> Reporter:
    """Build the reporter from the environment of a CI job for a pull request."""
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": SHA}}}))
    environment = {
        "GITHUB_API_URL": host.url,
        "GITHUB_REPOSITORY": "acme/shop",
        "GITHUB_SHA": "the temporary merge commit",
        "GITHUB_TOKEN": TOKEN,
        "GITHUB_EVENT_PATH": str(event),
        "CI_API_V4_URL": host.url,
        "CI_PROJECT_ID": "acme/shop",
        "CI_COMMIT_SHA": "the merged result",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": SHA,
        "CI_MERGE_REQUEST_IID": "7",
        "GITLAB_TOKEN": TOKEN,
        "BITBUCKET_API_URL": host.url,
        "BITBUCKET_REPO_FULL_NAME": "acme/shop",
        "BITBUCKET_COMMIT": SHA,
        "BITBUCKET_PR_ID": "7",
        "BITBUCKET_TOKEN": TOKEN,
        **other,
    }
    return from_environment(name, environment)


def patient(name: str, host: Host, tmp_path: Path, slept: list[float]) -> Reporter:
    """Build a reporter that notes how long it would wait, and does not wait."""
    found: Any = reporter(name, host, tmp_path)
    found.api.sleep = slept.append
    return found  # type: ignore[no-any-return]


def verdict(host: Host) -> str:
    """Return the result of the last status or check run."""
    last: dict[str, Any] = (host.runs or host.statuses)[-1]
    return str(last.get("conclusion") or last["state"]).lower()


def test_the_comment_is_written_once_and_then_updated(name: str, host: Host, tmp_path: Path) -> None:
    host.comments = dict.fromkeys(range(1, 6), "nice work")
    host.comments[5] = f"a person quotes {MARKER}"
    for _ in range(2):
        reporter(name, host, tmp_path).publish(BROKEN)
    reporter(name, host, tmp_path).publish(FINE)
    assert list(host.comments) == [1, 2, 3, 4, 5, 6]
    assert host.comments[6].startswith(MARKER)
    assert "nothing changes" in host.comments[6]


def test_a_check_without_findings_writes_no_comment(name: str, host: Host, tmp_path: Path) -> None:
    reporter(name, host, tmp_path).publish(FINE)
    assert host.comments == {}
    assert verdict(host).startswith("success")


@pytest.mark.parametrize(
    ("found", "blocks", "good"), [(BROKEN, True, False), (BROKEN, False, False), (ODD, True, False), (ODD, False, True)]
)
def test_the_status_follows_the_conclusion(
    name: str, host: Host, tmp_path: Path, *, found: CheckReport, blocks: bool, good: bool
) -> None:
    reporter(name, host, tmp_path).publish(found, review_blocks=blocks)
    assert (verdict(host) in ("success", "successful", "neutral")) is good


def test_a_refused_token_has_its_own_error_and_is_never_shown(name: str, host: Host, tmp_path: Path) -> None:
    wrong = {f"{name.upper()}_TOKEN": "wr0ng-secret"}
    with pytest.raises(CredentialsError) as error:
        reporter(name, host, tmp_path, **wrong).publish(BROKEN)
    assert "401" in str(error.value)
    assert "wr0ng-secret" not in str(error.value) + repr(reporter(name, host, tmp_path, **wrong))


def test_a_request_is_repeated_for_a_busy_server_but_not_for_a_broken_one(
    name: str, host: Host, tmp_path: Path
) -> None:
    host.faults = [(429, {}, {"Retry-After": "1"}), (503, {}, {"Retry-After": "1"})]
    patient(name, host, tmp_path, []).publish(BROKEN)
    assert len([r for r in host.requests if r[:2] == host.requests[0][:2]]) == 3
    host.faults = [(502, {"message": "no"})]
    with pytest.raises(UnreachableError):
        reporter(name, host, tmp_path).publish(BROKEN)


SECONDARY = {"message": "You have exceeded a secondary rate limit"}


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        ((429, {"message": "too many"}, {"Retry-After": "7"}), [7.0]),
        ((403, SECONDARY, {"Retry-After": "9"}), [9.0]),
        ((403, SECONDARY), [60.0]),
        ((403, {"message": "limit"}, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"}), [60.0]),
        ((403, {"message": "API rate limit exceeded"}, {"Retry-After": "3600"}), None),
    ],
)
def test_the_reporter_waits_for_the_end_of_githubs_limits_but_not_for_an_hour(
    tmp_path: Path, fault: Any, waits: list[float] | None
) -> None:
    """A limit is not a missing permission, so no status replaces the check run."""
    slept: list[float] = []
    with serve(hosts.github, Host(faults=[fault])) as host:
        if waits is None:
            with pytest.raises(UnreachableError, match=r"try again after 20\d\d-"):
                patient("github", host, tmp_path, slept).publish(BROKEN)
        else:
            patient("github", host, tmp_path, slept).publish(BROKEN)
    assert (slept, len(host.runs), host.statuses) == (waits or [], 1 if waits else 0, [])


def test_a_redirect_does_not_take_the_token_elsewhere(name: str, host: Host, tmp_path: Path) -> None:
    with serve(getattr(hosts, name), Host()) as elsewhere:
        host.faults = [(307, {}, {"Location": f"{elsewhere.url}/x"})]
        with pytest.raises(ConfigurationError):
            reporter(name, host, tmp_path).publish(BROKEN)
        assert elsewhere.requests == []


def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="environment variable"):
        from_environment(name, {})


def test_a_token_without_check_runs_writes_a_commit_status(tmp_path: Path) -> None:
    with serve(hosts.github, Host(app=False)) as host:
        done = reporter("github", host, tmp_path).publish(report(*[Level.BREAKING] * 100))
    assert (host.runs, host.statuses[0]["state"]) == ([], "failure")
    assert done[0] == "wrote the commit status: failure"


def test_github_annotations_go_out_fifty_at_a_time(tmp_path: Path) -> None:
    with serve(hosts.github, Host()) as host:
        reporter("github", host, tmp_path).publish(report(*[Level.BREAKING] * 120))
    notes = host.runs[0]["output"]["annotations"]
    assert (len(notes), notes[119]["message"]) == (120, "column c119 is missing.")
    shown = {(note["path"], note["start_line"], note["annotation_level"]) for note in notes}
    assert shown == {("s.yaml", 3, "failure")}


def test_gitlab_accepts_the_same_state_twice(tmp_path: Path) -> None:
    with serve(hosts.gitlab, Host()) as host:
        for _ in range(2):
            reporter("gitlab", host, tmp_path).publish(FINE)
    assert len(host.statuses) == 1


def test_a_repository_that_the_token_cannot_see(tmp_path: Path) -> None:
    with serve(hosts.gitlab, Host()) as host, pytest.raises(RepositoryNotFoundError):
        reporter("gitlab", host, tmp_path, CI_PROJECT_ID="acme/other").publish(FINE)
