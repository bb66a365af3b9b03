"""Prometheus metrics of a deployment as a whole: what the supervisor, the checks and the accounts say, and what runs out.

    python -m headrace.cluster.exporter [PORT]

Drivers export their own queries (`driver/progress.py`); a driver that is gone exports nothing, so what is missing is said
here. Verdicts, checks, failed tasks and free space are read from files at each scrape. The other parts ask servers: threads
do so every few minutes, and a scrape shows the newest answers.

The alerts in `helm/spark/files/rules.yaml` name these metrics; `tests/charts/test_alerts.py` compares the two.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric

from headrace.access.bindings import read_cassandra, read_kafka
from headrace.cluster import pki, server_health
from headrace.cluster.server_health import Sample
from headrace.contract.checked_sinks import suites_of
from headrace.contract.exit_codes import Exit
from headrace.contract.model import Pipeline
from headrace.operations import deployment, retention
from headrace.operations.batch import reconcile
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.quality import trend
from headrace.operations.quality.status import MEANING
from headrace.operations.retention import RetentionReport, RetentionState
from headrace.operations.supervisor import memory
from headrace.store import driver_files, failed_tasks
from headrace.store.driver_files import ExitRecord

PORT = 9109
SLOW_SECONDS = 300
SERVER_SECONDS = 60
CONNECT_SECONDS = 5

# Each metric with its meaning and labels. A scrape has all of them, without a sample where nothing is known.
METRICS = {
    "headrace_exporter_part_up": ("1 if the exporter could read this part when it last tried.", ("part",)),
    "headrace_pipeline_wanted": ("1 if an operator wants the pipeline to run.", ("pipeline",)),
    "headrace_pipeline_verdict": ("1 for the supervisor's newest verdict, 0 for the others.", ("pipeline", "verdict")),
    "headrace_pipeline_supervised_age_seconds": ("Since the supervisor last looked at it.", ("pipeline",)),
    "headrace_pipeline_restarts_left": ("Restarts left of the budget.", ("pipeline",)),
    "headrace_checkpoint_fault": (
        "1 if the newest driver ended because of its checkpoint and none runs.",
        ("pipeline", "runbook"),
    ),
    "headrace_quality_status": (
        "1 for the status of the newest check, 0 for the others.",
        ("pipeline", "sink", "status"),
    ),
    "headrace_quality_age_seconds": ("Since the newest check.", ("pipeline", "sink")),
    "headrace_reconcile_differing": ("Differences in the newest reconciliation.", ("pipeline", "query")),
    "headrace_reconcile_age_seconds": ("Since the newest reconciliation.", ("pipeline",)),
    "headrace_retention_state": ("1 for the current state, 0 for the others.", ("pipeline", "state")),
    "headrace_retention_left_seconds": ("Until Kafka removes a record that was not read.", ("pipeline",)),
    "headrace_certificate_days_left": ("Until a certificate ends.", ("system",)),
    "headrace_volume_free_bytes": ("Free space.", ("volume",)),
    "headrace_volume_size_bytes": ("Size of the file system.", ("volume",)),
    "headrace_task_failed_seconds": ("When the task last failed for good, since 1970.", ("task",)),
    server_health.UP: ("1 if the server answers; `any` stands for all of them.", ("system", "server")),
    server_health.HEARTBEAT: ("The newest heartbeat of a part of Airflow, since 1970.", ("part",)),
}

RETENTION_STATES: tuple[RetentionState, ...] = get_args(RetentionState)

_RUNBOOK = re.compile(r"docs/runbooks/(Checkpoint\w+)\.md")
_KAFKA = re.compile(r"failOnDataLoss|[Oo]ffsets? out of range|OffsetOutOfRange|data may have been lost")
_STATE = re.compile(r"[Ss]tate.?[Ss]tore|STATE_STORE|delta file|state schema")
_log = logging.getLogger(__name__)


class Exporter:
    """Gives the metrics of one deployment to a Prometheus registry (a custom collector)."""

    def __init__(self, deployment: Callable[[], Deployment]) -> None:
        """`deployment` returns the deployment as it is now: its file changes below pods that run."""
        self._deployment = deployment
        self._asked: dict[str, list[Sample]] = {}

    def describe(self) -> list[Metric]:
        """Return nothing: the registry need not collect to know the names."""
        return []

    def collect(self) -> list[Metric]:
        """Return all metrics. A part that cannot be read has no samples, and its `headrace_exporter_part_up` is 0."""
        samples = _all(self._deployment, FAST) + [one for part in list(self._asked.values()) for one in part]
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in METRICS.items()}
        for name, labels, value in samples:
            families[name].add_metric(labels, value)
        return list(families.values())

    def ask(self, *parts: str) -> None:
        """Ask the servers once, for some parts or for all; scrapes show the answers until the next call."""
        for part in parts or ASKED:
            self._asked[part] = _all(self._deployment, {part: ASKED[part]})

    def keep_asking(self, seconds: float, *parts: str) -> None:
        """Ask the servers in an endless loop, with a pause of some seconds."""
        while True:
            self.ask(*parts)
            time.sleep(seconds)


def _all(
    deployment: Callable[[], Deployment], parts: dict[str, Callable[[Deployment], Iterable[Sample]]]
) -> list[Sample]:
    """Return the samples of these parts; if one fails, the others are still there."""
    samples: list[Sample] = []
    for part, read in parts.items():
        up = 1.0
        try:
            for sample in read(deployment()):
                samples.append(sample)  # noqa: PERF402 - what came before a fault stays
        except Exception as error:  # whatever it is, the other parts are worth having
            _log.warning("%s cannot be read: %s", part, error)
            up = 0.0
        samples.append(("headrace_exporter_part_up", (part,), up))
    return samples


def _of_each(deployment: Deployment, read: Callable[[Pipeline], Iterable[Sample]]) -> Iterator[Sample]:
    """Yield the samples of each pipeline. One that cannot be read hides no other; its error is raised at the end."""
    fault: Exception | None = None
    for pipeline in deployment.pipelines().values():
        try:
            yield from list(read(pipeline))
        except Exception as error:
            _log.warning("%s cannot be read: %s", pipeline.name, error)
            fault = error
    if fault:
        raise fault


def verdicts(deployment: Deployment) -> Iterator[Sample]:
    """Yield what is wanted, what the supervisor says and how the newest driver ended, of every pipeline.

    A pipeline whose files cannot be read is UNKNOWN.
    """
    for name in deployment.pipelines():
        try:
            yield from list(_verdict(deployment.root, name))
        except Exception as error:  # it hides no other pipeline
            _log.warning("%s cannot be read: %s", name, error)
            for verdict in memory.GRAVITY:
                yield "headrace_pipeline_verdict", (name, verdict), float(verdict == "UNKNOWN")


def _verdict(root: str, name: str) -> Iterator[Sample]:
    wanted = desired_state.read(root, name).want == "RUNNING"
    newest = memory.read(root, name)
    verdict = newest.verdict if newest else "UNKNOWN"
    yield "headrace_pipeline_wanted", (name,), float(wanted)
    for known in memory.GRAVITY:
        yield "headrace_pipeline_verdict", (name, known), float(known == verdict)
    if newest and newest.at_ms:
        yield "headrace_pipeline_supervised_age_seconds", (name,), max(0.0, time.time() - newest.at_ms / 1000)
    if newest and newest.restarts_left is not None:
        yield "headrace_pipeline_restarts_left", (name,), float(newest.restarts_left)
    record = driver_files.exit_record(root, name)
    fault = checkpoint_fault(record) if wanted and verdict in memory.FAULTS else ""
    for runbook in CHECKPOINT_RUNBOOKS:
        yield "headrace_checkpoint_fault", (name, runbook), float(runbook == fault)


CHECKPOINT_RUNBOOKS = (
    "CheckpointBehindSinks",
    "CheckpointLogDamaged",
    "CheckpointOffsetsGone",
    "CheckpointStateDamaged",
)


def checkpoint_fault(record: ExitRecord | None) -> str:
    """Return the runbook of a driver that ended because of its checkpoint, or "" for any other end.

    Our own refusals name it (a replaced topic ends as REFUSED); what Spark's errors are about follows from their words.
    """
    if record is None or record.exit not in (Exit.DAMAGED.name, Exit.REFUSED.name):
        return ""
    if named := _RUNBOOK.search(record.error):
        return named[1]
    if record.exit == Exit.REFUSED.name:
        return ""
    if _KAFKA.search(record.error):
        return "CheckpointOffsetsGone"
    return "CheckpointStateDamaged" if _STATE.search(record.error) else "CheckpointLogDamaged"


def checks(deployment: Deployment) -> Iterator[Sample]:
    """Yield the status of the newest check of each sink; none for a sink that was never checked."""
    return _of_each(deployment, lambda pipeline: _newest_checks(deployment.root, pipeline))


def _newest_checks(root: str, pipeline: Pipeline) -> Iterator[Sample]:
    for sink in suites_of(pipeline):
        for newest in trend.read(root, sink)[:1]:
            for status in MEANING:
                yield "headrace_quality_status", (pipeline.name, sink, status), float(newest.status == status)
            yield "headrace_quality_age_seconds", (pipeline.name, sink), time.time() - newest.checked_at_ms / 1000


def volumes(deployment: Deployment) -> Iterator[Sample]:
    """Yield the space of the storage root, where it is a folder, and of Airflow's logs, where they are mounted."""
    logs = os.environ.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER", "")
    for volume, folder in (("data", deployment.root), ("airflow-logs", logs)):
        if folder.startswith("/") and Path(folder).is_dir():
            usage = shutil.disk_usage(folder)
            yield "headrace_volume_free_bytes", (volume,), float(usage.free)
            yield "headrace_volume_size_bytes", (volume,), float(usage.total)


def failures(deployment: Deployment) -> Iterator[Sample]:
    """Yield when tasks of Airflow last failed for good."""
    for task, at in failed_tasks.newest(deployment.root).items():
        yield "headrace_task_failed_seconds", (task,), at


def margins(deployment: Deployment) -> Iterator[Sample]:
    """Yield how long Kafka keeps what each pipeline has not read (`retention.guard`)."""
    return _of_each(deployment, lambda pipeline: _margin(retention.guard(deployment, pipeline.name)))


def _margin(report: RetentionReport) -> Iterator[Sample]:
    for state in RETENTION_STATES:
        yield "headrace_retention_state", (report.pipeline, state), float(report.state == state)
    if report.least_left_seconds is not None:
        yield "headrace_retention_left_seconds", (report.pipeline,), report.least_left_seconds


def accounts(deployment: Deployment) -> Iterator[Sample]:
    """Yield the differences of each pipeline's newest reconciliation, by query."""
    return _of_each(deployment, lambda pipeline: _newest_account(deployment.root, pipeline))


def _newest_account(root: str, pipeline: Pipeline) -> Iterator[Sample]:
    rows = reconcile.trend(root, pipeline.name)
    differing: dict[str, int] = {}
    for row in rows:
        if row.run == rows[0].run:
            differing[row.query] = differing.get(row.query, 0) + row.differing
    for query, number in differing.items():
        yield "headrace_reconcile_differing", (pipeline.name, query), float(number)
    if rows:
        yield "headrace_reconcile_age_seconds", (pipeline.name,), time.time() - rows[0].at.timestamp()


def certificates(deployment: Deployment) -> Iterator[Sample]:
    """Yield the days left of what Kafka and Cassandra present to clients, and of the CA that vouches for both."""
    kafka, cassandra = read_kafka(deployment.bindings), read_cassandra(deployment.bindings)
    host, _, port = kafka.bootstrap_servers.split(",")[0].rpartition(":")
    for system, ca_file, address in (
        ("kafka", kafka.ca_file, (host.strip("[]"), int(port))),
        ("cassandra", cassandra.ca_file, (cassandra.contact_points[0], cassandra.port)),
    ):
        if ca_file is not None:
            yield "headrace_certificate_days_left", (system,), pki.days_left(presented(*address))
            yield "headrace_certificate_days_left", (f"{system}-ca",), pki.days_left(ca_file.read_text())


def presented(host: str, port: int) -> str:
    """Return the certificate that a server presents, as PEM text. It is looked at, not trusted: nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, port), CONNECT_SECONDS) as plain:
        plain.settimeout(CONNECT_SECONDS)
        with context.wrap_socket(plain, server_hostname=host) as connection:
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")


FAST: dict[str, Callable[[Deployment], Iterable[Sample]]] = {
    "verdicts": verdicts,
    "checks": checks,
    "volumes": volumes,
    "tasks": failures,
}
ASKED: dict[str, Callable[[Deployment], Iterable[Sample]]] = {
    "retention": margins,
    "reconciliation": accounts,
    "certificates": certificates,
    "stores": server_health.stores,
    "airflow": server_health.airflow,
}


def main() -> None:
    """Serve `/metrics` on all addresses until the process is ended."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    exporter = Exporter(deployment.load)
    registry = CollectorRegistry()
    registry.register(exporter)
    _, thread = start_http_server(int(sys.argv[1]) if len(sys.argv) > 1 else PORT, registry=registry)
    for asked in (
        (SLOW_SECONDS, "retention", "reconciliation", "certificates"),
        (SERVER_SECONDS, "stores"),
        (SERVER_SECONDS, "airflow"),
    ):
        threading.Thread(target=exporter.keep_asking, args=asked, daemon=True).start()
    thread.join()


if __name__ == "__main__":
    main()
