"""The page *Reverse ETL* in Airflow's menu: all syncs, and each one by itself.

The page consists of ES modules, which run in the browser on the React of Airflow's own page, on Airflow 3.1 and later.
They ask Airflow's public REST API with the user's own session: what a user sees and may do is what Airflow allows. This
plugin serves the modules, without a login, as they hold no data. To users it tells which DAGs they may edit, which the
REST API does not, so that the page offers only actions that Airflow allows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin

from airflow_reverse_etl import __version__
from airflow_reverse_etl.compat import airflow_configuration

PREFIX = "/reverse-etl/page"
#: Name of the page in Airflow's menu, and of the global variable in which the host looks for it.
NAME = "Reverse ETL"

_STATIC = Path(__file__).parent / "static"
#: A new version has other addresses, so that no browser mixes modules of two versions.
_PATH = f"/static/{__version__}"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Page:
    """An ASGI application that serves the modules. Imports the web framework with the first request."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self._app is None:
            from fastapi import FastAPI
            from starlette.staticfiles import StaticFiles

            from airflow_reverse_etl.plugins.page_routes import router

            self._app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
            self._app.include_router(router)
            self._app.mount(_PATH, StaticFiles(directory=_STATIC))
        await self._app(scope, receive, send)


def _bundle_url() -> str:
    """Return the address of the page's module, with the prefix under which Airflow is served."""
    base = airflow_configuration().get("api", "base_url", fallback="/")
    return f"{urlsplit(base).path.rstrip('/')}{PREFIX}{_PATH}/page.js"


class ReverseEtlPagePlugin(AirflowPlugin):
    """Adds the page to the menu *Browse*."""

    name = "reverse_etl_page"
    fastapi_apps = [{"app": Page(), "url_prefix": PREFIX, "name": NAME}]  # noqa: RUF012 - Airflow's own form
    react_apps = [  # noqa: RUF012
        {
            "name": NAME,
            "bundle_url": _bundle_url(),
            "destination": "nav",
            "category": "browse",
            "url_route": "reverse-etl",
        }
    ]
