"""The command line in a pod: it works on the deployment that HEADRACE_DEPLOYMENT names, from any folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli import app
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment, KubernetesDrivers
from headrace.operations.drivers import desired_state
from tests.cli.conftest import use
from tests.support.stub_kubernetes import NAME, NAMESPACE, StubApi


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StubApi]:
    with StubApi(tmp_path) as stub:
        yield stub


@pytest.fixture
def cluster(api: StubApi, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment on a stub of the Kubernetes API, and a working folder without any project."""
    drivers = KubernetesDrivers(
        kind="kubernetes",
        namespace=NAMESPACE,
        image="localhost/headrace:1",
        driver_template=Path("/etc/headrace/driver.yaml"),
        executor_template=Path("/etc/headrace/executor.yaml"),
        kubeconfig=api.kubeconfig,
        spark_submit=str(api.spark_submit),
    )
    made = Deployment(project=project, root=str(tmp_path / "data"), bindings=tmp_path / "admin", drivers=drivers)
    use(made, tmp_path / "deployment.json", monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return made


def headrace(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app.app, list(words), env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_a_stream_is_started_shown_and_stopped_as_a_pod(cluster: Deployment, api: StubApi) -> None:
    code, shown = headrace("stream", "start", NAME, "--no-wait", "--json")
    assert (code, json.loads(shown)[NAME]["started"]) == (0, True)
    assert len(api.created) == 1
    code, shown = headrace("stream", "status", NAME, "--json")
    assert {row["driver"] for row in json.loads(shown)} == {"STARTING"}
    code, shown = headrace("stream", "stop", NAME, "--json")
    assert code == 0
    assert api.pods == {}
    assert desired_state.read(cluster.root, NAME).want == "STOPPED"


def test_the_log_of_a_driver_is_that_of_its_pod_and_other_logs_are_kubectls(cluster: Deployment, api: StubApi) -> None:
    headrace("stream", "start", NAME, "--no-wait")
    assert headrace("logs", NAME)[0] == 0
    with pytest.raises(HeadraceError, match="kubectl logs"):
        headrace("logs", "kafka")


@pytest.mark.parametrize("command", ["up", "down", "clean", "demo", "provision"])
def test_what_manages_one_machine_is_refused_with_what_to_do_instead(cluster: Deployment, command: str) -> None:
    with pytest.raises(
        HeadraceError, match=rf"The command {command} manages the servers of one machine, .*`|docs/howto"
    ):
        headrace(command)


def test_the_state_of_a_cluster_is_whether_its_stores_answer(
    cluster: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.operations import clients

    for why, expected in (("", 0), ("connection refused", 3)):
        monkeypatch.setattr(clients, "silent", lambda _, why=why: {"kafka": "", "cassandra": why})
        code, shown = headrace("status", "--json")
        assert code == expected
        assert [(part["name"], part["detail"]) for part in json.loads(shown)] == [("kafka", ""), ("cassandra", why)]


def test_a_release_is_an_image(cluster: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.operations.drivers import upgrade

    asked: list[str] = []

    def upgraded(*_: object, release: str, **__: object) -> upgrade.Upgraded:
        asked.append(release)
        return upgrade.Upgraded(NAME, "", release)

    monkeypatch.setattr(upgrade, "run", upgraded)
    assert headrace("stream", "upgrade", NAME, "--release", "registry.example/headrace:2")[0] == 0
    assert asked == ["registry.example/headrace:2"]
