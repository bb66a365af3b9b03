"""What is written for Airflow: configuration, secrets, connections and the deployment's file; nothing starts here."""

from __future__ import annotations

import configparser
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.local import airflow, airflow_config, doctor, platform
from headrace.local.java import Java, find_java
from headrace.local.launcher import starting_launcher, write_deployment
from headrace.local.settings import Settings
from headrace.operations import deployment
from headrace.orchestration import notify
from tests.support.platform import local_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return local_settings(tmp_path / "a home", airflow=True)


def written(settings: Settings) -> configparser.ConfigParser:
    airflow_config.write(settings)
    parser = configparser.ConfigParser()
    parser.read(airflow_config.home(settings) / "airflow.cfg")
    return parser


def test_every_file_with_a_secret_is_readable_by_its_owner_alone(settings: Settings) -> None:
    written(settings)
    for folder in (airflow_config.home(settings), settings.home / "secrets"):
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_secrets_are_made_once_and_all_differ(settings: Settings) -> None:
    first, second = written(settings), written(settings)
    assert first == second
    secrets = [path.read_text() for path in (settings.home / "secrets").iterdir()]
    assert len(set(secrets)) == len(secrets) == 4
    assert first["core"]["fernet_key"] in {f"{secret}=" for secret in secrets}


def test_the_environment_of_airflow_and_its_tasks_holds_no_secret(settings: Settings) -> None:
    written(settings)
    environment = json.dumps(airflow_config.environment(settings, find_java(settings)))
    assert [path.name for path in (settings.home / "secrets").iterdir() if path.read_text() in environment] == []


def test_the_api_server_listens_on_loopback_and_no_examples_are_loaded(settings: Settings) -> None:
    config = written(settings)
    assert config["api"]["host"] == "127.0.0.1"
    assert config["core"]["execution_api_server_url"] == f"http://127.0.0.1:{settings.airflow_port}/execution/"
    assert config["core"]["load_examples"] == "False"
    assert config["core"]["dags_folder"] == str(settings.airflow_dags)


def test_a_proxys_address_is_the_base_url_and_tasks_still_reach_the_server_itself(settings: Settings) -> None:
    behind_proxy = settings.model_copy(update={"airflow_base_url": "https://data.example/platform/"})
    config = written(behind_proxy)
    assert config["api"]["base_url"] == "https://data.example/platform"
    assert config["core"]["execution_api_server_url"].startswith("http://127.0.0.1:")


def test_the_database_is_sqlite_unless_a_file_names_a_postgresql(settings: Settings, tmp_path: Path) -> None:
    assert written(settings)["database"]["sql_alchemy_conn"].startswith(
        f"sqlite:///{settings.home}/airflow/airflow.db?"
    )
    address = "postgresql+psycopg2://airflow:p%40ss@127.0.0.1/airflow"
    (tmp_path / "url").write_text(f"{address}\n")
    changed = settings.model_copy(update={"airflow_database": tmp_path / "url"})
    assert written(changed)["database"]["sql_alchemy_conn"] == address
    assert airflow_config.database_id(changed) != airflow_config.database_id(settings)
    assert "p%40ss" not in airflow_config.database_id(changed)


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot be read"), ("mysql://x", "does not contain a PostgreSQL URL")]
)
def test_a_database_file_that_names_no_postgresql_is_refused_without_telling_what_it_holds(
    settings: Settings, tmp_path: Path, text: str, words: str
) -> None:
    if text:
        (tmp_path / "url").write_text(text)
    changed = settings.model_copy(update={"airflow_database": tmp_path / "url"})
    with pytest.raises(HeadraceError, match=words) as refusal:
        airflow_config.database_url(changed)
    assert "mysql" not in str(refusal.value)


def test_the_connection_of_finite_spark_work_is_local_and_there(settings: Settings) -> None:
    written(settings)
    kept = json.loads((airflow_config.home(settings) / "connections.json").read_text())
    assert kept == airflow_config.connections()
    assert kept[airflow_config.BATCH_CONNECTION]["host"] == "local[2]"


def test_the_password_is_shown_when_it_is_new_and_later_only_its_file(settings: Settings) -> None:
    new = airflow_config.welcome(settings, with_password=True)
    later = airflow_config.welcome(settings, with_password=False)
    password = airflow_config.password_file(settings).read_text()
    assert password in new
    assert password not in later
    assert str(airflow_config.password_file(settings)) in later
    assert json.loads(json.dumps({"admin": password})) == {"admin": airflow_config.password(settings)}


def test_the_deployments_file_gives_tasks_the_launcher_that_the_command_line_has(
    settings: Settings, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.local.jars.spark_jars", lambda _settings: [settings.cache / "a.jar"])
    changed = settings.model_copy(update={"driver_heap": "700m"})
    write_deployment(changed, project)
    monkeypatch.setenv(deployment.VARIABLE, str(airflow_config.deployment_file(changed)))
    by_file, by_cli = deployment.load().launcher(), starting_launcher(changed, project)
    assert vars(by_file) | {"keep": None} == vars(by_cli) | {"keep": None}
    assert deployment.load().bindings == changed.bindings()


def test_without_airflow_the_platform_is_kafka_and_cassandra_and_needs_less_memory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: (settings.min_free_memory_mb + 100) * 1024 * 1024)
    assert not doctor.check_memory(settings).ok
    alone = settings.model_copy(update={"airflow": False})
    assert doctor.check_memory(alone).ok
    assert [part.name for part in platform.parts(alone)] == ["kafka", "cassandra"]
    assert [part.name for part in platform.parts(settings)] == ["kafka", "cassandra", *airflow.COMPONENTS]


def test_a_taken_port_of_airflow_is_named_before_anything_starts(settings: Settings) -> None:
    taken = settings.model_copy(update={"airflow_port": settings.kafka_port})
    check = doctor.check_ports(taken)
    assert not check.ok
    assert "airflow_port" in check.detail


def test_the_variable_that_airflows_tasks_have_is_no_misspelt_setting() -> None:
    assert doctor.check_variables({deployment.VARIABLE: "/x", "HEADRACE_HOME": "/y"}).ok
    assert not doctor.check_variables({"HEADRACE_DEPLOYMNT": "/x"}).ok
    assert os.environ.get("AIRFLOW_HOME") is None  # a test that imported Airflow here would write into the user's home


def test_loading_the_plugin_loads_nothing_of_headrace_that_a_task_would_find_stale_later(
    settings: Settings, project: Path
) -> None:
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('plugin', sys.argv[1]); "
        "spec.loader.exec_module(importlib.util.module_from_spec(spec)); "
        "print([name for name in sys.modules if name.startswith('headrace.')])"
    )
    written(settings)
    argv = [sys.executable, "-c", code, str(project / "plugins" / "streams_page.py")]
    environment = airflow_config.environment(settings, find_java(settings))
    output = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_the_pool_of_batch_runs_is_set_once_and_again_for_another_number_of_slots(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def run(_settings: Settings, _java: Java, *words: str) -> subprocess.CompletedProcess[str]:
        calls.append(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(airflow, "run_command", run)
    airflow_config.home(settings).mkdir(parents=True, exist_ok=True)
    for slots in (2, 2, 5):
        airflow._migrate(settings.model_copy(update={"airflow_batch_slots": slots}), Java(Path(), "17", "test"))
    assert [words[3] for words in calls if words[:3] == ("pools", "set", "batch")] == ["2", "5"]


def test_tasks_know_whom_to_tell(settings: Settings) -> None:
    changed = settings.model_copy(
        update={"airflow_notify_connection": "alerts", "airflow_notify_to": "ops@example.org"}
    )
    environment = airflow_config.environment(changed, find_java(changed))
    assert environment[notify.CONNECTION] == "alerts"
    assert environment[notify.RECIPIENTS] == "ops@example.org"
