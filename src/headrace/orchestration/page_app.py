"""The Streams page as a FastAPI app behind Airflow's own login; `plugins/streams_page.py` mounts it in the API server.

Airflow does not authenticate the apps of plugins (apache/airflow#72655). So every route here uses Airflow's own dependencies:
they take the bearer token or the cookie of the UI, and check with the auth manager that the user may see DAGs.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse

from headrace.errors import HeadraceError
from headrace.operations import deployment
from headrace.orchestration import page, page_quality, page_sink
from headrace.store.records import Json, to_json

# A user who may see the supervisor's runs may see the streams; one who may see its logs may see the streams' logs. The DAG is
# fixed here: otherwise Airflow's dependency would take `?dag_id=` from the request, and a caller could name another DAG.
SUPERVISOR = "streams_supervisor"
SEE_RUNS = Depends(requires_access_dag("GET", DagAccessEntity.RUN, SUPERVISOR))
SEE_LOGS = Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS, SUPERVISOR))

# Data Docs show values of rows that broke an expectation, as the results of the checks do.
SEE_ROWS = Depends(requires_access_dag("GET", DagAccessEntity.XCOM, "quality"))

# Without FastAPI's documentation pages, which would be unguarded routes.
app = FastAPI(title="Streams", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[SEE_RUNS])


@app.get("/")
def streams() -> HTMLResponse:
    """Return the page, which refreshes itself."""
    return _streams("streams.html")


@app.get("/pipelines")
def pipelines() -> HTMLResponse:
    """Return the part of the page that changes."""
    return _streams("pipelines.html")


@app.get("/streams.json")
def streams_json() -> list[Json]:
    """Return the content of the page as JSON, for tools."""
    return [to_json(card) for card in page.overview(deployment.load())]


@app.get("/log/{pipeline}", dependencies=[SEE_LOGS])
def log(pipeline: str, lines: Annotated[int, Query(ge=1, le=5000)] = 400) -> HTMLResponse:
    """Return the last lines of a driver's log."""
    text = page.log_tail(deployment.load(), pipeline, lines)
    return _page("log.html", title=f"Driver log of {pipeline}", text=text, lines=lines)


@app.get("/runbook/{verdict}")
def runbook(verdict: str) -> HTMLResponse:
    """Return the runbook of a verdict."""
    return _page("runbook.html", title=f"Runbook {verdict}", text=page.runbook(deployment.load(), verdict))


@app.get("/docs/{place:path}", dependencies=[SEE_ROWS])
def data_docs(place: str) -> HTMLResponse:
    """Return a page of the Data Docs; `index.html` lists those of every sink."""
    deployed = deployment.load()
    if place == page_quality.HOME:
        return _page("docs_home.html", title="Data Docs", sinks=page.checked(deployed))
    up = "../" * place.count("/")
    return _page("docs.html", title="Data Docs", text=page_quality.data_docs(deployed.root, place), up=up)


@app.get("/sink/{name}", dependencies=[SEE_ROWS])
def sink(name: str) -> HTMLResponse:
    """Return the page of one sink: columns, checks in plain words, results and examples of failing rows."""
    deployed = deployment.load()
    return _page("sink.html", title=name, s=page_sink.page_of(deployed.root, page.described(deployed), name))


@app.exception_handler(HeadraceError)
def refuse(_request: Request, error: Exception) -> HTMLResponse:
    """Show a refusal as its sentence."""
    return _page("refusal.html", status_code=404, title="Not shown", text=str(error))


def _streams(template: str) -> HTMLResponse:
    deployed = deployment.load()
    cards = page.overview(deployed)
    return _page(template, title="Streams", pipelines=cards, pictures=page.drawn(deployed, cards))


def _page(template: str, *, status_code: int = 200, **values: object) -> HTMLResponse:
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(page.render(template, nonce=nonce, **values), status_code, headers)
