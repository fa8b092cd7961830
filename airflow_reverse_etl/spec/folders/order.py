"""The order of the syncs of a folder, by their ``after``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.folders.reading import SyncSource
from airflow_reverse_etl.spec.problems import at_most, nearest


def in_order(sources: Sequence[SyncSource], errors: Sequence[SpecError] = ()) -> list[SyncSource]:
    """Return the syncs, each behind those that it comes after, and else by name.

    :param errors: those of syncs that could not be read.
    :raises SpecError: lists all problems, of the errors too, each with ``file:line``.
    """
    texts: list[str] = []
    for error in errors:
        texts += error.problems or (f"{error.where.get('file', 'sync')}: {error.what}",)
    texts += [text for _, text in problems_between(sources)]
    if texts:
        noun = "problem" if len(texts) == 1 else "problems"
        raise SpecError(
            f"the syncs have {len(texts):,} {noun}", problems=at_most(texts), todo="correct the lines below"
        )
    by_name = {source.sync.name: source for source in sources}
    return [by_name[name] for name in TopologicalSorter(_edges(by_name)).static_order()]


def problems_between(sources: Sequence[SyncSource]) -> Iterator[tuple[SyncSource, str]]:
    """Yield what is wrong between the syncs of a folder, with the sync that has to be corrected.

    These are names that two syncs have, an ``after`` that names no sync or one of another schedule, and syncs that
    wait for each other.
    """
    by_name: dict[str, SyncSource] = {}
    for source in sources:
        name = source.sync.name
        first = by_name.setdefault(name, source)
        if first is not source:
            place = first.place("name")
            yield source, f"{source.place('name')}: name: {name!r} is the name of {place}, too: they share state"
    for source in by_name.values():
        for name in source.sync.after:
            if problem := _problem_of_after(source, name, by_name):
                yield source, f"{source.place('after')}: after: {problem}"
    for cycle in _cycles(_edges(by_name)):
        source = by_name[cycle[0]]
        yield source, f"{source.place('after')}: after: a cycle: {' after '.join(cycle)}"


def _problem_of_after(source: SyncSource, name: str, by_name: Mapping[str, SyncSource]) -> str:
    if name not in by_name:
        return f"{name!r} is not a sync of the folder{nearest(name, list(by_name))}"
    if by_name[name].sync.airflow.schedule != source.sync.airflow.schedule:
        return f"{name!r} has another airflow.schedule, and so another DAG"
    return ""


def _edges(by_name: Mapping[str, SyncSource]) -> dict[str, list[str]]:
    """Return the names of the known syncs that each sync comes after."""
    edges: dict[str, list[str]] = {}
    for name in sorted(by_name):
        edges[name] = [before for before in by_name[name].sync.after if before in by_name]
    return edges


def _cycles(edges: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield cycles until none is left, each as names that come after the next one; the first name is the last, too."""
    while True:
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            cycle = error.args[1][::-1]
            yield cycle
            edges[cycle[0]].remove(cycle[1])
        else:
            return
