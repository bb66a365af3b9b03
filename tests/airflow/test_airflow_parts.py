"""Airflow's four components as child processes: adopted, killed, started again; what they leave is ended, drivers are not."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from headrace.cluster import server_health
from headrace.local import airflow as parts
from headrace.local import airflow_config, airflow_upkeep, platform
from headrace.local.java import find_java
from headrace.local.settings import Settings
from headrace.operations import processes
from tests.support.airflow_client import Airflow
from tests.support.servers import is_running, kill, pids, states, wait_until, words_of

pytestmark = pytest.mark.platform


def family(settings: Settings, name: str) -> list[psutil.Process]:
    """Every process of a component: itself and what it forked."""
    record = processes.read_record(name, settings.run_dir)
    assert record is not None
    return [process for process in psutil.process_iter() if _session(process.pid) == record.pid]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def test_every_component_is_shown_as_running_and_its_log_is_found(airflow: Airflow, airflow_settings: Settings) -> None:
    assert {
        name: state for name, state in states(airflow_settings).items() if name in parts.COMPONENTS
    } == dict.fromkeys(parts.COMPONENTS, "RUNNING")
    for name in parts.COMPONENTS:
        assert platform.logs(airflow_settings, name).stat().st_size > 0


def test_the_exporter_gets_the_heartbeat_of_every_part_without_a_login(
    airflow: Airflow, airflow_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(server_health.AIRFLOW, f"http://127.0.0.1:{airflow_settings.airflow_port}")
    samples = {labels: value for _, labels, value in server_health.airflow(None)}
    assert samples["airflow", "api-server"] == samples["postgresql", "any"] == 1
    for part in ("scheduler", "triggerer", "dag_processor"):
        assert -60 < time.time() - samples[part,] < 600


def test_only_the_api_server_listens_and_on_loopback_alone(airflow: Airflow, airflow_settings: Settings) -> None:
    pids_of_airflow = {process.pid for name in parts.COMPONENTS for process in family(airflow_settings, name)}
    listening = [
        item.laddr
        for item in psutil.net_connections("inet")
        if item.laddr and item.pid in pids_of_airflow and item.status == psutil.CONN_LISTEN
    ]
    assert {(address.ip, address.port) for address in listening} == {("127.0.0.1", airflow_settings.airflow_port)}


def test_no_secret_is_in_an_argument_an_environment_or_a_log(airflow: Airflow, airflow_settings: Settings) -> None:
    secrets = [path.read_text().encode() for path in (airflow_settings.home / "secrets").iterdir()]
    texts = [path.read_bytes() for path in airflow_settings.log_dir.glob("airflow-*")]
    seen = {name: [words_of(process) for process in family(airflow_settings, name)] for name in parts.COMPONENTS}
    assert [name for name in parts.COMPONENTS if not any(seen[name])] == [], "nothing was read of these"
    texts += [text for members in seen.values() for words in members for text in words]
    assert len(secrets) > 4
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []


def test_a_second_up_adopts_all_four(airflow: Airflow, airflow_settings: Settings) -> None:
    before = pids(airflow_settings)
    platform.up(airflow_settings)
    assert pids(airflow_settings) == before


def test_a_killed_scheduler_is_shown_and_started_again_and_its_workers_are_ended(
    airflow: Airflow, airflow_settings: Settings
) -> None:
    before = pids(airflow_settings)
    workers = family(airflow_settings, "airflow-scheduler")[1:]
    assert len(workers) >= airflow_settings.airflow_parallelism
    kill(airflow_settings, "airflow-scheduler")
    platform.up(airflow_settings)
    after = pids(airflow_settings)
    assert {name for name in after if after[name] != before[name]} == {"airflow-scheduler"}
    assert [process for process in workers if is_running(process)] == []
    airflow.wait_for_dag("probe_numbers")
    assert airflow.run("probe_numbers", {"count": 1})[1] == "success"


def test_what_has_its_own_session_survives_a_component_as_drivers_do(
    airflow: Airflow, airflow_settings: Settings, tmp_path: Path
) -> None:
    environment = airflow_config.environment(airflow_settings, find_java(airflow_settings))
    driver = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env=environment, start_new_session=True
    )
    try:
        triggerer = pids(airflow_settings)["airflow-triggerer"]
        assert triggerer is not None
        os.kill(triggerer, signal.SIGKILL)
        wait_until(lambda: states(airflow_settings)["airflow-triggerer"] == "CRASHED")
        platform.up(airflow_settings)
        assert driver.poll() is None
    finally:
        driver.kill()
        driver.wait()


def test_airflows_own_cleaning_takes_the_words_that_are_said_to_it_once_a_week(
    airflow: Airflow, airflow_settings: Settings
) -> None:
    os.utime(airflow_config.home(airflow_settings) / "cleaned", (0, 0))
    log = airflow_settings.log_dir / "airflow-db-clean.log"
    java = find_java(airflow_settings)
    run = functools.partial(parts.run_command, airflow_settings, java)
    assert airflow_upkeep.clean(airflow_config.home(airflow_settings), run, log)
    assert not airflow_upkeep.clean(airflow_config.home(airflow_settings), run, log), log.read_text()
