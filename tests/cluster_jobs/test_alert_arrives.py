"""An alert reaches a person: exporter, a real Prometheus with the chart's rules, a real Alertmanager, and its webhook.

Drivers are small real processes, and a real supervisor gives them up. Only the time that an alert waits (`for`) is cut to a
second; tests/charts/test_alerts.py holds the rules' own times.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from headrace.cluster import exporter
from headrace.contract.checked_sinks import suites_of
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.drivers import control
from headrace.operations.drivers.local import LocalLauncher
from headrace.operations.quality import trend
from headrace.operations.quality.summary import Failure, Summary
from headrace.operations.quality.windows import Batches
from headrace.operations.supervisor.cycle import Context, run_pass
from headrace.operations.supervisor.driver_health import LIMITS
from tests.operations import light_driver
from tests.operations.supervisor.test_verdict import PIPELINE
from tests.support.charts import ROOT
from tests.support.logged import logged
from tests.support.platform import free_ports

PROGRAMS = ("prometheus", "prometheus-alertmanager")
pytestmark = [
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"{' or '.join(PROGRAMS)} is not installed"),
    pytest.mark.timeout(900),
]
NAME = PIPELINE.name
RUNBOOKS = "https://runbooks.example"
QUICK = replace(LIMITS, head_start=0, confirm=0.2, silent=2, first_wait=0.01, longest_wait=0.02)
DEADLINE_SECONDS = 300.0


@dataclass
class Alarm:
    """A deployment whose metrics are scraped, and the alerts that its webhook received: name -> status -> newest alert."""

    deployment: Deployment
    received: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def awaited(self, alert: str, status: str = "firing") -> dict[str, Any]:
        """Wait for an alert at the webhook and return it."""
        _await(lambda: status in self.received.get(alert, {}), f"{alert} is {status} at the webhook: {self.received}")
        return self.received[alert][status]


def _await(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not fact():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture
def alarm(tmp_path: Path, project: Path) -> Iterator[Alarm]:
    drivers = LocalDrivers(
        run_dir=tmp_path, log_dir=tmp_path, tmp_dir=tmp_path, driver_bindings=tmp_path, environment={}
    )
    storage = tmp_path / "storage"
    storage.mkdir(exist_ok=True)
    deployment = Deployment(project=project, root=str(storage), bindings=tmp_path / "none", drivers=drivers)
    with ExitStack() as stack:
        alarm = Alarm(deployment)
        webhook = stack.enter_context(_webhook(alarm))
        registry = CollectorRegistry()
        registry.register(exporter.Exporter(lambda: deployment))
        server, _ = start_http_server(0, "127.0.0.1", registry)
        stack.callback(server.shutdown)
        prometheus, manager = free_ports(2)
        stack.enter_context(_alertmanager(tmp_path, manager, webhook))
        stack.enter_context(_prometheus(tmp_path, prometheus, manager, server.server_port))
        yield alarm


@contextmanager
def _webhook(alarm: Alarm) -> Iterator[str]:
    """Yield the address of a server that stores what Alertmanager sends (Alertmanager, "webhook_config")."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for alert in content["alerts"]:
                alarm.received.setdefault(alert["labels"]["alertname"], {})[alert["status"]] = alert
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def _alertmanager(folder: Path, port: int, webhook: str) -> Any:
    route = {"receiver": "person", "group_wait": "0s", "group_interval": "1s", "group_by": ["..."]}
    settings = {
        "route": route,
        "receivers": [{"name": "person", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
    }
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(settings))
    return logged(
        folder, "prometheus-alertmanager", "--config.file=alertmanager.yml", f"--storage.path={folder}/alertmanager",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    )  # fmt: skip


def _prometheus(folder: Path, port: int, manager: int, target: int) -> Any:
    rules = yaml.safe_load((ROOT / "helm" / "spark" / "files" / "rules.yaml").read_text().replace("RUNBOOKS", RUNBOOKS))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["for"] = "1s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    settings = {
        # A scrape may take as long as its interval; one that takes longer would resolve every alert.
        "global": {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{manager}"]}]}]},
        "scrape_configs": [{"job_name": "headrace", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    return logged(
        folder, "prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip


def test_a_driver_that_is_given_up_calls_the_webhook_with_its_runbook_and_its_return_resolves_the_alert(
    alarm: Alarm, tmp_path: Path, project: Path
) -> None:
    launcher = LocalLauncher(
        project=project, root=alarm.deployment.root, run_dir=tmp_path / "run", log_dir=tmp_path / "log",
        tmp_dir=tmp_path / "tmp", bindings=tmp_path, environment={"HEADRACE_LIGHT_END": "TRANSIENT"},
        main=Path(light_driver.__file__), grace_seconds=1,
    )  # fmt: skip
    try:
        control.start(launcher, NAME, by="the test")
        _await(lambda: _verdict(launcher) == "CRASH_LOOP", "the supervisor gives the driver up")
        fired = alarm.awaited("CRASH_LOOP")
        assert fired["labels"] | {"pipeline": NAME, "severity": "page"} == fired["labels"]
        assert fired["annotations"]["runbook_url"] == f"{RUNBOOKS}/CRASH_LOOP.md"
        assert NAME in fired["annotations"]["summary"]
        alarm.received["CRASH_LOOP"].pop("resolved", None)  # a scrape that failed resolves an alert, too

        good = replace(launcher, environment={})
        control.restart(good, NAME, by="the test", reason="corrected")
        _await(lambda: _verdict(good) != "CRASH_LOOP", "the verdict is another one")
        assert alarm.awaited("CRASH_LOOP", "resolved")["labels"]["pipeline"] == NAME
    finally:
        launcher.stop(NAME, 0)


def _verdict(launcher: LocalLauncher) -> str:
    context = Context(launcher, PIPELINE, lambda topics: {topic: {0: 0} for topic in topics}, QUICK, random.Random(1))
    return run_pass(context).verdict


def test_a_failed_expectation_calls_the_webhook_with_the_sink_and_its_runbook(alarm: Alarm) -> None:
    sink = suites_of(PIPELINE)[0]
    failed = Failure("1", "expect_column_values_to_not_be_null(login_id)", "critical", "Why.", 1, 1.0)
    checked = Summary(
        sink, NAME, "last_login", "FAILED", Batches(name="batches 0 to 1"), time.time_ns() // 1_000_000,
        rows=1, failed=(failed,),
    )  # fmt: skip
    trend.remember(alarm.deployment.root, checked)
    fired = alarm.awaited("QualityCritical")
    assert (fired["labels"]["sink"], fired["labels"]["status"]) == (sink, "FAILED")
    assert fired["annotations"]["runbook_url"] == f"{RUNBOOKS}/QualityCritical.md"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """The storage root as a file system of 1 MiB, in place before anything is scraped."""
    root = tmp_path / "storage"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield root
    subprocess.run(["umount", "-l", str(root)], check=True)


def test_a_volume_that_runs_full_calls_the_webhook_and_one_that_has_room_again_resolves_the_alert(
    small: Path, alarm: Alarm
) -> None:
    filler = small / "filler"
    filler.write_bytes(bytes(950_000))
    fired = alarm.awaited("DiskFull")
    assert fired["labels"]["volume"] == "data"
    assert fired["annotations"]["summary"].startswith("data has 9.")
    filler.unlink()
    alarm.awaited("DiskFull", "resolved")
