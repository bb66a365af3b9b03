"""The Streams page's app without a running Airflow: every route is guarded, and its answers cannot be framed or cached."""

import json
import subprocess
import sys

import pytest

from headrace.local import airflow_config
from headrace.local.java import Java
from headrace.operations.deployment import Deployment, LocalDrivers
from tests.support.platform import local_settings

CODE = """
import asyncio, json, re, sys
import httpx
from airflow import settings
from airflow.api_fastapi.app import init_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models import import_all_models
from airflow.models.base import Base
from fastapi import FastAPI
from headrace.operations.page_app import app as page
sys.path.insert(0, sys.argv[1])
import streams_page

import_all_models()
Base.metadata.create_all(settings.engine)  # revoked tokens are asked for
places = {"pipeline": "pos_sales", "verdict": "STALLED"}
routes = [re.sub("{([a-z]+)}", lambda found: places[found[1]], route.path) for route in page.routes]
root = FastAPI()
manager = init_auth_manager(root)
root.mount(streams_page.PREFIX, streams_page.LazyApp())
token = manager.generate_jwt(SimpleAuthManagerUser(username="admin", role="VIEWER"))

async def ask(**how):
    transport = httpx.ASGITransport(app=root, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow.test", **how) as client:
        found = {path: await client.get(streams_page.PREFIX + path) for path in routes}
        return {path: (each.status_code, dict(each.headers), each.text) for path, each in found.items()}

async def main():
    print(json.dumps({
        "nobody": await ask(),
        "forged": await ask(cookies={"_token": "x.y.z"}),
        "header": await ask(headers={"Authorization": f"Bearer {token}"}),
        "cookie": await ask(cookies={"_token": token}),
    }))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory, project):
    """Status, headers and text of every route of the app, to nobody, to a forged token, and to one that Airflow signed."""
    home = tmp_path_factory.mktemp("page")
    settings = local_settings(home / "home", airflow=True, airflow_plugins=home / "no plugins")
    airflow_config.write(settings)
    folders = {name: home / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    drivers = LocalDrivers(**folders, environment={})
    deployed = Deployment(project=project, root=str(home / "storage"), bindings=home, drivers=drivers)
    deployed.write(airflow_config.deployment_file(settings))
    environment = airflow_config.environment(settings, Java(home, "17", "none is needed"))
    argv = [sys.executable, "-c", CODE, str(project / "plugins")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def codes(told):
    return {path: code for path, (code, _, _) in told.items()}


def test_every_route_answers_401_to_nobody_and_refuses_a_forged_token(answers):
    assert len(answers["nobody"]) >= 5
    assert set(codes(answers["nobody"]).values()) == {401}
    assert set(codes(answers["forged"]).values()) <= {401, 403}


@pytest.mark.parametrize("how", ["header", "cookie"])
def test_a_token_that_airflow_signed_opens_every_route(answers, how):
    assert set(codes(answers[how]).values()) == {200}, codes(answers[how])


def test_the_pages_may_be_framed_by_airflow_alone_and_run_no_script_but_their_own(answers):
    pages = {path: told for path, told in answers["header"].items() if not path.endswith(".json")}
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
