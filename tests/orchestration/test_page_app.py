"""The Streams page in Airflow's real application, behind a path prefix, without a server: every route is guarded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import pytest

from headrace.local import airflow_config
from headrace.local.java import Java
from headrace.operations.deployment import Deployment, LocalDrivers
from tests.support.platform import local_settings

PREFIX = "http://airflow.test/data/platform"
CODE = """
import asyncio, json, re, sys
import httpx
from airflow import settings
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.main import app
from airflow.models import import_all_models
from airflow.models.base import Base
from headrace.orchestration.page_app import app as page

import_all_models()
Base.metadata.create_all(settings.engine)  # revoked tokens are asked for
places = {"pipeline": "pos_sales", "verdict": "STALLED", "place:path": "index.html", "name": "kafka.pos_items"}
routes = [re.sub("{([a-z:]+)}", lambda match: places[match[1]], route.path) for route in page.routes]
token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="VIEWER"))
base = sys.argv[1]
others = ["/api/v2/plugins", "/api/v2/plugins/importErrors", "/plugin/streams", "/dags/stream_start"]

astray = ["/headrace/docs/" + place for place in (
    "%2e%2e/%2e%2e/checkpoints/x.json", "validations/%2e%2e/%2e%2e/trend/x.html", "validations/..%2f..%2fx.html", "/etc/passwd"
)]

async def ask(*more, **how):
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, **how) as client:
        answers = {path: await client.get(base + path) for path in [*("/headrace" + route for route in routes), *more]}
        return {path: (answer.status_code, dict(answer.headers), answer.text) for path, answer in answers.items()}

async def main():
    admin = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="ADMIN"))
    answers = {
        "nobody": await ask(*astray),
        "forged": await ask(cookies={"_token": "x.y.z"}),
        "header": await ask(headers={"Authorization": f"Bearer {token}"}),
        "cookie": await ask(cookies={"_token": token}),
        "admin": await ask(*others, *astray, headers={"Authorization": f"Bearer {admin}"}),
    }
    print("answers " + json.dumps(answers))

asyncio.run(main())
"""


Answers = dict[str, tuple[int, dict[str, str], str]]
"""Path -> status, headers and text."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, project: Path) -> dict[str, Answers]:
    """Status, headers and text of every route of the app, to nobody, to a forged token, and to one that Airflow signed."""
    home = tmp_path_factory.mktemp("page")
    settings = local_settings(home / "home", airflow=True, airflow_plugins=project / "plugins", airflow_base_url=PREFIX)
    airflow_config.write(settings)
    drivers = LocalDrivers(
        run_dir=home / "run_dir",
        log_dir=home / "log_dir",
        tmp_dir=home / "tmp_dir",
        driver_bindings=home / "driver_bindings",
        environment={},
    )
    deployed = Deployment(project=project, root=str(home / "storage"), bindings=home, drivers=drivers)
    deployed.write(airflow_config.deployment_file(settings))
    environment = airflow_config.environment(settings, Java(home, "17", "none is needed"))
    argv = [sys.executable, "-c", CODE, PREFIX]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    asked: dict[str, Answers] = json.loads(done.stdout.rpartition("answers ")[2].splitlines()[0])
    return asked


def codes(answered: Answers) -> dict[str, int]:
    return {path: code for path, (code, _, _) in answered.items()}


def test_every_route_answers_401_to_nobody_and_refuses_a_forged_token(answers: dict[str, Answers]) -> None:
    assert len(answers["nobody"]) >= 5
    assert set(codes(answers["nobody"]).values()) == {401}
    assert set(codes(answers["forged"]).values()) <= {401, 403}


@pytest.mark.parametrize("how", ["header", "cookie"])
def test_a_token_that_airflow_signed_opens_every_route(answers: dict[str, Answers], how: str) -> None:
    assert set(codes(answers[how]).values()) == {200}, codes(answers[how])


def test_no_path_leads_out_of_the_data_docs(answers: dict[str, Answers]) -> None:
    astray = {path: answer for path, answer in answers["admin"].items() if re.search("/docs/(?!index)", path)}
    assert codes(astray) == dict.fromkeys(astray, 404)
    assert len(astray) == 4
    assert all("Unknown page" in text for _, _, text in astray.values())


def test_the_pages_may_be_framed_by_airflow_alone_and_run_no_script_but_their_own(answers: dict[str, Answers]) -> None:
    pages = {path: answer for path, answer in answers["header"].items() if not path.endswith(".json")}
    for path, (_, headers, text) in pages.items():
        policy = headers["content-security-policy"]
        nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
        assert "default-src 'none'" in policy, path
        assert "frame-ancestors 'self'" in policy, path
        assert headers["cache-control"] == "no-store", path
        assert text.count("<script") == text.count(f'<script nonce="{nonce}">'), path
        assert " style=" not in text, path
    nonces = {headers["content-security-policy"] for _, headers, _ in pages.values()}
    assert len(nonces) == len(pages)  # each answer has its own


def test_behind_a_path_prefix_every_link_of_the_page_stays_behind_it(answers: dict[str, Answers]) -> None:
    text = answers["header"]["/headrace/"][2]
    links = re.findall(r'href="([^"]+)"', text) + re.findall(r'fetch\("([^"]+)"', text)
    targets = {urljoin(f"{PREFIX}/headrace/", link) for link in links}
    assert {
        f"{PREFIX}/headrace/log/pos_sales",
        f"{PREFIX}/headrace/pipelines",
        f"{PREFIX}/dags/stream_start",
    } <= targets
    assert [target for target in targets if not target.startswith(f"{PREFIX}/")] == []
    assert answers["admin"]["/dags/stream_start"][0] == 200


def test_airflows_menu_has_the_page_at_an_address_that_its_prefix_comes_before(answers: dict[str, Answers]) -> None:
    plugins = json.loads(answers["admin"]["/api/v2/plugins"][2])
    views = [view for plugin in plugins["plugins"] for view in plugin["external_views"]]
    assert [(view["name"], view["href"], view["url_route"]) for view in views] == [("Streams", "headrace/", "streams")]
    assert json.loads(answers["admin"]["/api/v2/plugins/importErrors"][2])["import_errors"] == []
    assert '<base href="/data/platform/"' in answers["admin"]["/plugin/streams"][2]
