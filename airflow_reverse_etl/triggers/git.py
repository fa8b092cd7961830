"""Trigger that waits for commits without a worker slot: for a deferred sensor, and as an asset's watcher."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import AssetWatcher
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_reverse_etl.assets import ASSET_GROUP
from airflow_reverse_etl.compat import Asset
from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from airflow_reverse_etl.git.path_watch import PathVersion

#: Airflow fails a deferred task whose trigger fires before the scheduler has noted the deferral (apache/airflow#66374).
_SHORTEST_SECONDS = 15.0
_LONGEST_SECONDS = 3600.0


def git_commit(
    git_conn_id: str,
    *,
    repository: str | None = None,
    ref: str = "main",
    path: str = ".",
    poll_interval: float = 60.0,
) -> Asset:
    """Return the asset that a new commit updates: ``schedule=[git_commit("git_dbt", path="analytics")]``.

    Its events' ``extra["payload"]`` has git_conn_id, ref, path, commit and previous. Delivery is at least once. Commits
    within one poll are one event. From Airflow 3.3 the last commit seen survives a restart of the triggerer;
    before, what is pushed while no triggerer runs is not noticed until the next commit.

    :param git_conn_id: Airflow connection of type ``git``.
    :param repository: another repository on the connection's host, as its URL or as ``owner/name``; default: the
        connection's own.
    :param ref: branch or tag.
    :param path: folder, relative to the repository's root: only commits that change something below it count.
    :param poll_interval: seconds between polls.
    """
    # Quoted, because the name is a part of the asset's URI.
    parts = (git_conn_id, *([repository] if repository else []), ref, path)
    quoted = [quote(part, safe=".-_") for part in parts]
    name = "/".join(["git", *quoted])
    trigger = GitCommitTrigger(git_conn_id, repository=repository, ref=ref, path=path, poll_interval=poll_interval)
    watcher = AssetWatcher(name=f"{name} changed", trigger=trigger)
    return Asset(name=name, uri=f"reverse-etl://{name}", group=ASSET_GROUP, watchers=[watcher])


class GitCommitTrigger(BaseEventTrigger):
    """Fires when a branch has a new commit that changes something under a path.

    The trigger never raises. After an error that may pass, it polls again, at growing intervals. For a wrong
    configuration, a sensor gets an event with ``error``, and a watcher logs a line.

    :param git_conn_id: Airflow connection of type ``git``.
    :param repository: another repository on the connection's host, as its URL or as ``owner/name``; default: the
        connection's own.
    :param ref: branch or tag.
    :param path: folder, relative to the repository's root.
    :param poll_interval: seconds between polls; at least 15 pass before the first.
    :param seen: what a sensor has seen; the trigger then fires once. None: fires for each new commit.
    """

    #: Not a part of what :meth:`serialize` returns.
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def __init__(
        self,
        git_conn_id: str,
        *,
        repository: str | None = None,
        ref: str = "main",
        path: str = ".",
        poll_interval: float = 60.0,
        seen: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.git_conn_id = git_conn_id
        self.repository = repository
        self.ref = ref
        self.path = path
        self.poll_interval = poll_interval
        self.seen = seen

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments, as plain JSON."""
        names = ["git_conn_id", "ref", "path", "poll_interval", "seen"]
        # Airflow knows a watcher by its arguments: one without a repository of its own keeps those that it had.
        if self.repository:
            names.append("repository")
        place = f"{type(self).__module__}.{type(self).__qualname__}"
        return place, {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is a new commit; for a watcher, for ever."""
        from airflow_reverse_etl.git.path_watch import PathVersion

        once = self.seen is not None
        seen = PathVersion.from_json(self.seen or await self._remembered())
        interval = max(self.poll_interval, 1.0)
        delay = max(interval, _SHORTEST_SECONDS)
        failures = 0
        while True:
            await self.sleep(delay)
            before = seen
            try:
                seen, news = await self._look(seen)
                delay = interval
                failures = 0
            except Exception as error:  # noqa: BLE001 - Airflow restarts a trigger that raises every few seconds
                if once and isinstance(error, ConfigurationError):
                    yield _event({"error": str(error)})
                    return
                failures += 1
                delay = min(interval * 2 ** min(failures, 12), max(interval, _LONGEST_SECONDS))
                self.log.warning("Polling again in %d s: %s", delay, _text(error))
                continue
            if news and (once or before.commit):  # a watcher's first look only finds out where it stands
                place = {"git_conn_id": self.git_conn_id, "ref": self.ref, "path": self.path}
                if self.repository:
                    place["repository"] = self.repository
                yield _event({**place, "commit": seen.commit, "previous": before.commit or None})
                if once:
                    return
                await self.sleep(delay)  # the event is stored by the triggerer's next heartbeats: repeat, not lose
            if not once and seen != before:
                await self._remember(seen)

    async def _look(self, seen: PathVersion) -> tuple[PathVersion, bool]:
        from airflow_reverse_etl.git.path_watch import poll
        from airflow_reverse_etl.hooks.git import GitRepositoryHook

        repository = await GitRepositoryHook(self.git_conn_id, self.repository).async_conn()
        return await asyncio.to_thread(poll, repository, ref=self.ref, path=self.path, seen=seen)

    async def _remembered(self) -> dict[str, Any] | None:
        store = getattr(self, "asset_state_store", None)  # Airflow 3.3, and only for a watcher
        found = await store.aget("git_commit", None) if store is not None else None
        return found if isinstance(found, dict) else None

    async def _remember(self, seen: PathVersion) -> None:
        store = getattr(self, "asset_state_store", None)
        if store is not None:
            await store.aset("git_commit", seen.to_json())


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def _text(error: Exception) -> str:
    """Describe an error without secrets: of a foreign error, only the type is safe."""
    return str(error) if isinstance(error, ReverseEtlError) else type(error).__name__
