"""The Streams page in Airflow's menu: an external view in a frame, served by this plugin behind Airflow's own login.

Airflow does not authenticate the FastAPI apps of plugins (apache/airflow#72655): every route here depends on Airflow's
own dependencies, which take the bearer token or the cookie of the UI and ask the auth manager for the right to see DAGs.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse

from headrace.errors import HeadraceError
from headrace.operations import deployment, page

PREFIX = "/headrace"
SEE_RUNS = Depends(requires_access_dag("GET", DagAccessEntity.RUN))
SEE_LOGS = Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS))

# Without its documentation pages, which would be routes that nobody guards.
app = FastAPI(title="Streams", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[SEE_RUNS])


@app.get("/")
def streams() -> HTMLResponse:
    """Return the page; it refreshes itself."""
    return _page("streams.html", title="Streams", pipelines=page.overview(deployment.load()))


@app.get("/pipelines")
def pipelines() -> HTMLResponse:
    """Return the part of the page that changes."""
    return _page("pipelines.html", pipelines=page.overview(deployment.load()))


@app.get("/streams.json")
def streams_json() -> list[dict[str, Any]]:
    """Return what the page shows, for tools."""
    return page.overview(deployment.load())


@app.get("/log/{pipeline}", dependencies=[SEE_LOGS])
def log(pipeline: str, lines: Annotated[int, Query(ge=1, le=5000)] = page.LOG_LINES) -> HTMLResponse:
    """Return the end of a driver's log."""
    text = page.log_tail(deployment.load(), pipeline, lines)
    return _page("log.html", title=f"Driver log of {pipeline}", text=text, lines=lines)


@app.get("/runbook/{verdict}")
def runbook(verdict: str) -> HTMLResponse:
    """Return what to do about a verdict."""
    return _page("runbook.html", title=f"Runbook {verdict}", text=page.runbook(deployment.load(), verdict))


@app.exception_handler(HeadraceError)
def refuse(_request: Request, error: Exception) -> HTMLResponse:
    """Show a refusal as its sentence."""
    return _page("refusal.html", status_code=404, title="Not shown", text=str(error))


def _page(template: str, *, status_code: int = 200, **values: object) -> HTMLResponse:
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(page.render(template, nonce=nonce, **values), status_code, headers)


class StreamsPage(AirflowPlugin):
    """Tell Airflow of the app and of its place in the menu. The address is relative: a path prefix stays in front."""

    name = "headrace_streams"
    fastapi_apps = [{"app": app, "url_prefix": PREFIX, "name": "Streams"}]  # noqa: RUF012 - as Airflow declares it
    external_views = [  # noqa: RUF012
        {
            "name": "Streams",
            "href": f"{PREFIX[1:]}/",
            "destination": "nav",
            "url_route": "streams",
            "nav_top_level": True,
        }
    ]
