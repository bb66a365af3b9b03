"""Passwords and certificates are changed under load, as docs/howto/deploy.md says ($HEADRACE_KUBECONFIG).

Slow: Jobs run, brokers and nodes restart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import cluster_streams as streams
from tests.support.cluster import (
    CLIENT_LABELS,
    KUBECONFIG,
    airflow_image,
    asking_kafka,
    get,
    helm_upgrade,
    kubectl,
    namespace,
    probe_pod,
    run_probes,
    secret,
)
from tests.support.cluster_airflow import airflow
from tests.support.cluster_streams import BOTH, QUERIES, load, now_ms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
]


@pytest.fixture(scope="module", autouse=True)
def running(stopped_at_the_end: None) -> Iterator[None]:
    """Both pipelines run; the base chart is back at its usual action afterwards."""
    streams.start(*BOTH)
    yield
    helm_upgrade("base", "base", "--set", "job.action=ensure")


def _restarts(system: str, name: str) -> None:
    where = [f"statefulset/{name}", "-n", namespace(system)]
    kubectl("rollout", "restart", *where)
    kubectl("rollout", "status", *where, "--timeout=600s")


def test_rotated_passwords_are_taken_over_without_loss_and_the_old_ones_are_refused() -> None:
    image = airflow_image()
    old = {name: secret("spark", f"kafka-{name.replace('_', '-')}")["password"] for name in BOTH}
    with load(image):
        since, before = now_ms(), streams.living(*BOTH)
        helm_upgrade("base", "base", "--set", "job.action=rotate-passwords")
        # From here on a driver that connects anew is refused and ends; the supervisor starts it with the new password.
        helm_upgrade("airflow", "airflow")
        with airflow() as api:
            assert api.run("stream_restart", {"pipelines": list(BOTH)}, 600)[1] == "success"
        print(f"\nrotated passwords, restarted after {(now_ms() - since) / 1000:.0f} s")
        streams.back(now_ms(), *BOTH, before=before, replaced=True, queries=QUERIES)
    new = {name: secret("spark", f"kafka-{name.replace('_', '-')}")["password"] for name in BOTH}
    assert all(new[name] != old[name] for name in BOTH)
    refused, taken = run_probes(
        *(
            asking_kafka(when, image, {"sasl.password": passwords["web_events"]}, "kafka-web-events", "spark")
            for when, passwords in (("old", old), ("new", new))
        )
    )
    assert refused.startswith("out: ")
    assert taken.startswith("in: ")


def test_renewed_certificates_are_served_after_a_rolling_restart_without_loss() -> None:
    image = airflow_image()
    old = _fingerprints(image)
    with load(image):
        before = streams.living(*BOTH)
        since = now_ms()
        helm_upgrade("base", "base", "--set", "job.action=renew-certificates")
        for system in ("kafka", "cassandra"):
            _restarts(system, system)
        print(f"\nrenewed certificates, restarted after {(now_ms() - since) / 1000:.0f} s")
        back = streams.back(now_ms(), *BOTH, before=before, replaced=False, queries=QUERIES)
        print(
            f"  drivers that were replaced meanwhile: {[name for name, moments in back.items() if moments['new']] or 'none'}"
        )
    new = _fingerprints(image)
    assert len({*old, *new}) == 4, f"{old} before, {new} after"
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in old + new)


def test_the_job_has_no_right_to_overwrite_once_its_action_is_ensure_again() -> None:
    helm_upgrade("base", "base", "--set", "job.action=ensure")
    role = get("role", "bootstrap", "-n", namespace("spark"))
    assert [rule["verbs"] for rule in role["rules"]] == [["get", "create"]], json.dumps(role["rules"])


def _fingerprints(image: str) -> list[str]:
    """The served certificates' fingerprints, of Kafka and of Cassandra, seen from clients' pods."""
    return run_probes(*(_handshake(system, port, image) for system, port in (("kafka", 9092), ("cassandra", 9042))))


def _handshake(system: str, port: int, image: str) -> dict[str, Any]:
    server = (f"{system}-0.{system}.{namespace(system)}.svc.cluster.local", port)
    code = f"import hashlib, ssl; print(hashlib.sha256(ssl.get_server_certificate({server!r}).encode()).hexdigest())"
    return probe_pod("airflow", f"handshake-{system}", CLIENT_LABELS["airflow"], code, image)
