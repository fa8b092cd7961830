"""Operators that read a dbt project: its models, as a catalog, and the syncs in its models' meta."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.assets import catalog_asset
from airflow_reverse_etl.compat import AssetAlias, BaseOperator, Context, airflow_errors
from airflow_reverse_etl.connections import connection_info, storage_options
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.hooks.git import GitRepositoryHook
from airflow_reverse_etl.operators.dbt_task import DbtTask, Syncs
from airflow_reverse_etl.wiring import state_files

if TYPE_CHECKING:
    from airflow.sdk import XComArg

    from airflow_reverse_etl.dbt.catalog import Catalog
    from airflow_reverse_etl.dbt.profiles import Profile
    from airflow_reverse_etl.http.server import Server


class DbtModelSyncOperator(DbtTask):
    """Read the models of a dbt project in a Git repository into a catalog that syncs can use.

    Resolves ``ref`` to a commit; when that commit's catalog is stored already, that one ``git ls-remote`` was all.
    Otherwise fetches the commit, runs ``dbt parse`` in a process of its own, without a warehouse and without secrets,
    and stores the catalog under ``[reverse_etl] state_url``. When the warehouse's adapter is not installed with dbt,
    another one stands in, and relations are written in the warehouse's own dialect.

    Returns ``project``, ``commit``, ``ref``, ``git_conn_id``, ``repository``, ``project_path``, ``catalog`` (a path
    under the state URL), ``models`` (their number) and ``previous`` (the commit before, if any): small, for
    ``ReverseEtlOperator(catalog=…)`` and ``DbtOperator(project=…)``, which then work on the very same commit. The
    catalog of each commit is kept: ``ref`` can be pinned to an earlier one, without asking the Git host.

    Then compares the catalog with the one that this task saw before, for what each sync uses, as the sync's ``drift``
    says. The findings are in the log, in the output's ``drift`` (``since``, the commit before; how many are
    ``breaking``, need ``review``, are a ``warning``; the first of the ``findings``), and in the event of
    ``catalog_asset(git_conn_id, project_path)``, which comes with each new commit. Where a sync says ``fail``, the task
    fails, and does so again, until the project is restored, the sync is changed, or ``ref`` is pinned: nothing behind
    it runs on those models. Findings are in the XCom ``drift`` then. Without syncs, all models are compared, and
    nothing fails.

    What it does not do: build the models; look at the warehouse's own columns, as each run of a sync does.

    :param git_conn_id: Airflow connection of type ``git``; see
        :class:`~airflow_reverse_etl.hooks.git.GitRepositoryHook`.
    :param repository: another repository on the connection's host, as its URL or as ``owner/name``; default: the
        connection's own.
    :param ref: branch, tag, full commit id or ``HEAD``.
    :param project_path: folder of ``dbt_project.yml``, relative to the repository's root.
    :param source: path or URL (http, s3, gs, az …) of a ``manifest.json`` to read instead: no Git, and no dbt. The
        output has no ``git_conn_id`` then, and ``commit`` is the manifest's SHA-256, shortened.
    :param source_conn_id: connection with the credentials for ``source``: ``reverse_etl_http`` or ``http`` for http,
        ``aws``, ``google_cloud_platform`` or ``wasb`` for an object storage.
    :param select: models to keep, as names, ``tag:crm``, ``path:models/marts``, ``package:shop`` or
        ``meta.reverse_etl``; a list means any of these, a comma both. Default: all.
    :param syncs: what to look at for drift: a folder of YAML files, a file, or syncs; paths are absolute or relative to
        the DAG file. Syncs in models' ``meta.reverse_etl`` are looked at as well.
    :param profile_conn_id: connection of the warehouse, which says where the models are: adapter, database, schema.
        Default: the ``profiles.yml`` next to ``dbt_project.yml``; without one, relations carry no database, and the
        adapter installed with dbt and its usual schema are assumed.
    :param schema: schema that dbt builds in, when the connection does not say or says another.
    :param database: database that it builds in (BigQuery: project, Databricks: catalog), likewise.
    :param target: target of the profile; a name, as models may depend on it; default: ``[reverse_etl]
        environment``, if that is set.
    :param vars: dbt variables.
    :param env: environment variables for dbt: a mapping, templated and never shown; or names, to pass on the worker's
        own values. Parse needs no true secrets.
    :param deps: install the project's packages when they are not in the repository.
    :param dbt_executable: path or name of dbt 1.6 or newer, or Fusion; environments of their own are welcome.
    :raises AirflowFailException: fix the configuration. :raises AirflowException: a retry may help.
    """

    template_fields: Sequence[str] = (
        "ref",
        "project_path",
        "git_conn_id",
        "repository",
        "profile_conn_id",
        "schema",
        "database",
        "target",
        "vars",
        "source",
        "select",
    )
    ui_color = "#f6e4dc"

    def __init__(
        self,
        *,
        git_conn_id: str = "git_default",
        repository: str | None = None,
        ref: str = "main",
        project_path: str = ".",
        source: str | None = None,
        source_conn_id: str | None = None,
        select: str | Sequence[str] | None = None,
        syncs: Syncs = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.git_conn_id = git_conn_id
        self.repository = repository
        self.ref = ref
        self.project_path = project_path
        self.source = source
        self.source_conn_id = source_conn_id
        self.select = select
        self.syncs = syncs
        self._alias = AssetAlias(f"reverse_etl.catalog.{self.task_id}")
        self.outlets = [*self.outlets, self._alias]

    def execute(self, context: Context) -> dict[str, Any]:
        """Sync the models; see the class."""
        with airflow_errors():
            return self._from_source(self.source, context) if self.source else self._from_git(context)

    def _from_git(self, context: Context) -> dict[str, Any]:
        from airflow_reverse_etl.dbt.profiles import UNKNOWN_DATABASE
        from airflow_reverse_etl.dbt.runner import engine_version
        from airflow_reverse_etl.git.repository import project_folder

        repository = GitRepositoryHook(self.git_conn_id, self.repository).get_conn()
        path = project_folder(self.project_path)
        commit = repository.head(self.ref)
        profile = self._profile()
        key = self._key(repository.url, path, profile, env=self._environment(context))

        def parse() -> Catalog:
            from airflow_reverse_etl.check.privacy.marking import marked
            from airflow_reverse_etl.dbt.manifest import read_manifest

            folder = self._checkout(repository, context, commit=commit, path=path, ref=self.ref)
            cache = f"parse_cache/{key}/{engine_version(self.dbt_executable)}"
            manifest = self._manifest(folder, context, profile=profile, cache=cache)
            catalog = read_manifest(manifest, commit=commit, unknown_database=UNKNOWN_DATABASE)
            return marked(catalog, manifest, folder=path, project=folder)

        place = {"git_conn_id": self.git_conn_id, "repository": repository.url, "project_path": path}
        asset = self.git_conn_id, path, self.repository
        return self._synced(key, context, asset, commit=commit, parse=parse, about={"ref": self.ref, **place})

    def _from_source(self, source: str, context: Context) -> dict[str, Any]:
        from airflow_reverse_etl.dbt.artifacts import without_query

        data = _fetched(source, self.source_conn_id)
        digest = hashlib.sha256(data).hexdigest()[:40]

        def parse() -> Catalog:
            from airflow_reverse_etl.check.privacy.marking import marked
            from airflow_reverse_etl.dbt.manifest import load, read_manifest

            manifest = load(data, file=without_query(source))
            return marked(read_manifest(manifest, commit=digest), manifest)

        place = without_query(source)
        asset = self.source_conn_id or "local", place, None
        key = self._key(place, "", None, env={})
        return self._synced(key, context, asset, commit=digest, parse=parse, about={"source": place})

    def _synced(
        self,
        key: str,
        context: Context,
        asset: tuple[str, str, str | None],
        *,
        commit: str,
        parse: Callable[[], Catalog],
        about: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Store a commit's catalog, log what changed, and only then record it as the project's present one."""
        from airflow_reverse_etl.dbt.catalog_history import record
        from airflow_reverse_etl.operators.drift import check_drift

        place = f"catalogs/{key}/{commit}.json"

        def read() -> Catalog:
            return self._stored(place, commit=commit, parse=parse)

        with check_drift(self, context, read=read, key=key, place=place, syncs=self.syncs) as drift:
            previous = record(state_files(), f"catalogs/{key}", commit=commit, at=datetime.now(UTC))
        if not drift.models:
            self.log.warning("The catalog is empty%s", f": nothing matches {self.select!r}" if self.select else "")
        found: dict[str, Any] = {
            "project": drift.project,
            "commit": commit,
            "previous": previous,
            "catalog": place,
            "models": drift.models,
            "drift": drift.to_dict(),
            **about,
        }
        if drift.other_catalog:
            context["outlet_events"][self._alias].add(catalog_asset(*asset), extra=found)
        return found

    def _stored(self, place: str, *, commit: str, parse: Callable[[], Catalog]) -> Catalog:
        """Return the stored catalog of a commit, or parse and store a new one."""
        from airflow_reverse_etl.dbt.catalog import Catalog
        from airflow_reverse_etl.dbt.selection import select

        files = state_files()
        stored = files.read(place)
        if stored is not None:
            self.log.info("The catalog of %s is stored already", commit)
            catalog = Catalog.from_json(stored)
        else:
            catalog = parse()
            if self.select:
                selectors = [self.select] if isinstance(self.select, str) else self.select
                catalog = replace(catalog, models=select(catalog.models, selectors))
            files.write(place, catalog.to_json())
            self.log.info("Read the models of %s: %s", commit, len(catalog.models))
        return catalog

    def _key(self, url: str, path: str, profile: Profile | None, *, env: Mapping[str, str]) -> str:
        """Return a key for the project, and for the settings that its relations may depend on."""
        from airflow_reverse_etl.dbt.catalog import FORMAT
        from airflow_reverse_etl.dbt.runner import sounds_secret

        # A changed password does not change a relation.
        shown = {name: "" if sounds_secret(name) else value for name, value in env.items()}
        output = dict(profile.output) if profile else None
        where = [output, self.schema, self.database, self.target]
        settings = [FORMAT, url, path, where, self.vars, shown, self.select]
        text = json.dumps(settings, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class DbtMetaSyncsOperator(BaseOperator):
    """Returns the syncs in the ``meta.reverse_etl`` of a catalog's models, for a task mapped over them.

    A sync that is merged into the dbt project runs with the next DAG run; the DAG stays as it is. Returns the syncs as
    they are written, each with its ``model``, for ``ReverseEtlOperator.partial(…).expand(sync=…)``: one that is not
    valid is red by itself and does not hold up the others.

    What it does not do: ask who wrote a sync. A sync names Airflow connections; to allow some only, map over
    ``syncs.output.map(…)`` with a function that refuses others.

    :param catalog: output of a ``DbtModelSyncOperator``. Templated.
    :raises AirflowFailException: two syncs have the same name, and so the same state.
    """

    template_fields: Sequence[str] = ("catalog",)
    ui_color = "#f6e4dc"

    def __init__(self, *, catalog: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.catalog: Any = catalog

    def execute(self, context: Context) -> list[dict[str, Any]]:  # noqa: ARG002  Airflow's signature
        """Find the syncs; see the class."""
        from airflow_reverse_etl.check.exposures import specs_in_meta
        from airflow_reverse_etl.dbt.catalog import load_catalog

        with airflow_errors():
            specs = [spec for _, spec in specs_in_meta(load_catalog(state_files(), self.catalog))]
            names = Counter(str(spec.get("name")) for spec in specs)
            if twice := [name for name, count in names.items() if count > 1]:
                raise SpecError(f"several syncs have the name {', '.join(twice)}", todo="give each a name of its own")
        self.log.info("Syncs in models' meta.reverse_etl: %s", ", ".join(names) or "none")
        return specs


def _fetched(source: str, conn_id: str | None) -> bytes:
    """Fetch an artifact, with the credentials of an Airflow connection."""
    from airflow_reverse_etl.dbt.artifacts import fetch

    def read_file(folder: str, name: str) -> bytes | None:
        from airflow_reverse_etl.stores.files import StateFiles

        return StateFiles(folder, storage_options(connection_info(conn_id)) if conn_id else {}).read(name)

    def server_of(conn_id: str) -> Server:
        from airflow_reverse_etl.http.server import Server

        return Server.from_connection(connection_info(conn_id), connection_info)

    return fetch(source, conn_id, read_file=read_file, server_of=server_of)
