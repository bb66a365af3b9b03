"""The Streams page in a real Airflow: its login, its rights, a path prefix in front, and how it looks in Chromium."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from headrace.local import airflow_config
from headrace.local.java import find_java
from headrace.local.settings import Settings
from headrace.operations.drivers import desired_state
from tests.support.airflow_client import Airflow
from tests.support.browser import chromium

pytestmark = pytest.mark.platform

SECONDS = 120
PLACES = {"{pipeline}": "pos_sales", "{verdict}": "STALLED", "{place:path}": "index.html", "{name}": "kafka.pos_items"}
ROUTES_CODE = """
import json
from headrace.orchestration.page_app import app
print(json.dumps([("/headrace" + route.path, sorted(getattr(route, "methods", ()))) for route in app.routes]))
"""


@pytest.fixture(scope="module")
def environment(airflow_settings: Settings) -> dict[str, str]:
    return airflow_config.environment(airflow_settings, find_java(airflow_settings))


@pytest.fixture(scope="module")
def routes(environment: dict[str, str]) -> list[tuple[str, str]]:
    """Every route of the plugin's app, as FastAPI has it: those that nobody thought of too."""
    output = subprocess.run(
        [sys.executable, "-c", ROUTES_CODE], env=environment, capture_output=True, text=True, check=True
    ).stdout
    listed = json.loads(output.splitlines()[-1])
    assert len(listed) >= 5
    return [
        (re.sub(r"{[a-z:]+}", lambda match: PLACES[match[0]], path), method)
        for path, methods in listed
        for method in methods
    ]


@pytest.fixture(scope="module")
def url(airflow_settings: Settings) -> str:
    return f"http://127.0.0.1:{airflow_settings.airflow_port}"


@pytest.fixture(scope="module")
def token(airflow: Airflow) -> str:
    return airflow.http.headers["Authorization"].removeprefix("Bearer ")


def shown(token: str) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Return headers and cookies: those that show the token in the header, and those of Airflow's page."""
    return [({"Authorization": f"Bearer {token}"}, {}), ({}, {"_token": token})]


@pytest.fixture
def stalled(airflow_settings: Settings) -> Iterator[str]:
    """A storage in which pos_sales stalls: the supervisor's own pass may replace it, but not what an operator wants."""
    root = str(airflow_settings.home / "storage")
    desired_state.write(root, "pos_sales", "PAUSED", "ana", "<b>moving house</b>")
    yield root
    desired_state.write(root, "pos_sales", "STOPPED", "the test", "over")


def test_every_route_answers_401_without_a_token(url: str, routes: list[tuple[str, str]]) -> None:
    assert {path for path, _ in routes} >= {"/headrace/", "/headrace/pipelines", "/headrace/log/pos_sales"}
    for path, method in routes:
        assert httpx.request(method, url + path, timeout=SECONDS).status_code == 401, path


def test_a_token_that_airflow_did_not_sign_opens_nothing(url: str, routes: list[tuple[str, str]]) -> None:
    for path, method in routes:
        for headers, cookies in shown("x.y.z"):
            with httpx.Client(headers=headers, cookies=cookies, timeout=SECONDS) as client:
                assert client.request(method, url + path).status_code in {401, 403}, path


def test_a_token_opens_every_route_in_the_header_and_as_the_cookie_of_airflows_page(
    url: str, routes: list[tuple[str, str]], token: str
) -> None:
    for path, method in routes:
        for headers, cookies in shown(token):
            with httpx.Client(headers=headers, cookies=cookies, timeout=SECONDS) as client:
                assert client.request(method, url + path).status_code in {200, 404}, path
                # 404: a page that refuses in a sentence, such as a runbook that there is not


def test_the_page_tells_every_pipeline_and_no_secret(
    url: str, airflow: Airflow, airflow_settings: Settings, project: Path, stalled: str
) -> None:
    pages = "".join(
        airflow.http.get(f"/headrace/{path}").text for path in ("", "pipelines", "streams.json", "log/pos_sales")
    )
    for path in (project / "pipelines").glob("*.yaml"):
        assert path.stem in pages
    assert "&lt;b&gt;moving house&lt;/b&gt;" in pages
    secrets = [path.read_text() for path in (airflow_settings.home / "secrets").iterdir()]
    secrets += [path.read_text() for path in (airflow_settings.home / "bindings").rglob("password")]
    assert len(secrets) > 5
    assert [secret for secret in secrets if secret in pages] == []


def test_a_page_that_cannot_be_shown_says_why_in_a_sentence(airflow: Airflow) -> None:
    answer = airflow.http.get("/headrace/log/no_such_pipeline")
    assert answer.status_code == 404
    assert "Unknown pipeline &#39;no_such_pipeline&#39;. Known pipelines:" in answer.text


def test_a_task_links_to_the_page_and_to_the_log_of_its_pipelines_driver(airflow: Airflow, url: str) -> None:
    airflow.wait_for_dag("probe_pipelines")
    run_id, state = airflow.run("probe_pipelines")
    assert state == "success"
    for index, log in ((0, f"{url}/headrace/log/pos_sales"), (1, None)):
        path = f"/dags/probe_pipelines/dagRuns/{run_id}/taskInstances/named/links"
        links = airflow.get(path, map_index=index)["extra_links"]
        assert links == {"Streams page": f"{url}/plugin/streams", "Driver log": log, "Data Docs": None}


@pytest.mark.slow
def test_airflows_menu_shows_the_page_in_chromium_and_it_refreshes_itself(
    url: str, token: str, stalled: str, tmp_path: Path, project: Path
) -> None:
    """Slow: a browser starts. The screenshot is kept: HEADRACE_TEST_ARTIFACTS, else test-artifacts/."""
    artifacts = Path(os.environ.get("HEADRACE_TEST_ARTIFACTS") or project / "test-artifacts")
    frame = "document.querySelector('iframe').contentDocument"
    with chromium(tmp_path / "profile") as tab:
        tab.call("Network.setCookie", name="_token", value=token, url=url)
        tab.open(f"{url}/plugin/streams")
        count = len(list((project / "pipelines").glob("*.yaml")))
        tab.wait_for(f"document.querySelector('iframe') && {frame}.querySelectorAll('section.card').length === {count}")
        tab.wait_for(f"{frame}.body.innerText.includes('<b>moving house</b>')")  # as text, not as markup
        tab.wait_for(f"{frame}.querySelector('#lost').hidden")
        tab.screenshot(artifacts / "streams-page.png")
        assert (artifacts / "streams-page.png").stat().st_size > 20_000
        desired_state.write(stalled, "pos_sales", "PAUSED", "ana", "moved meanwhile")
        tab.wait_for(f"{frame}.body.innerText.includes('moved meanwhile')")
        tab.wait_for(f"[...{frame}.querySelectorAll('a[data-out=self]')].slice(0, 1).map(a => a.click()).length")
        tab.wait_for("location.pathname.startsWith('/dags/stream_start')")
