"""Passwords and certificates are changed under load, as docs/howto/deploy.md says ($HEADRACE_KUBECONFIG).

Slow: Jobs run, brokers and nodes restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import cluster_streams as streams
from tests.support.cluster import KUBECONFIG, airflow_image, get, helm_upgrade, kubectl, namespace, secret
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
    for name, password, answer in (("web_events", old, "out"), ("web_events", new, "in")):
        assert streams.kafka_login(image, f"kafka-{name.replace('_', '-')}", password[name]).startswith(answer)


def test_renewed_certificates_are_served_after_a_rolling_restart_without_loss() -> None:
    serials = {system: _serial(system) for system in ("kafka", "cassandra")}
    with load(airflow_image()):
        before = streams.living(*BOTH)
        since = now_ms()
        helm_upgrade("base", "base", "--set", "job.action=renew-certificates")
        for system in ("kafka", "cassandra"):
            _restarts(system, system)
        print(f"\nrenewed certificates, restarted after {(now_ms() - since) / 1000:.0f} s")
        found = streams.back(now_ms(), *BOTH, before=before, replaced=False, queries=QUERIES)
        print(f"  drivers started anew meanwhile: {[name for name, each in found.items() if each['new']] or 'none'}")
    assert all(_serial(system) != serials[system] for system in serials)


def test_the_job_has_no_right_to_overwrite_once_its_action_is_ensure_again() -> None:
    helm_upgrade("base", "base", "--set", "job.action=ensure")
    role = get("role", "bootstrap", "-n", namespace("spark"))
    assert [rule["verbs"] for rule in role["rules"]] == [["get", "create"]], json.dumps(role["rules"])


def _serial(system: str) -> str:
    """The served certificate's fingerprint, seen from a client's pod."""
    host, port = (
        f"{system}-0.{system}.{namespace(system)}.svc.cluster.local",
        {"kafka": 9092, "cassandra": 9042}[system],
    )
    code = f"import hashlib, ssl; print(hashlib.sha256(ssl.get_server_certificate(({host!r}, {port})).encode()).hexdigest())"
    return streams.in_pod(code)
