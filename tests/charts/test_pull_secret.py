"""A private registry: with `imagePullSecret` every pod of every chart names it, without none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.cluster.bootstrap import Config
from headrace.operations.deployment import Deployment
from headrace.operations.drivers.interface import StartSpec
from headrace.operations.drivers.kubernetes import KubernetesLauncher
from tests.support.charts import CHARTS, PULL_SECRET, VARIANTS, named, pods, refusal, render

IDS = [f"{chart} {' '.join(settings)}".strip() for chart, settings in VARIANTS]


def _pull_secrets(chart: str, *settings: str) -> dict[str, Any]:
    """Return pod -> the pull secrets that it names, None where it has no such key."""
    return {who: spec.get("imagePullSecrets") for who, spec, _ in pods(render(chart, *settings))}


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_every_pod_names_the_pull_secret(chart: str, settings: tuple[str, ...]) -> None:
    pull_secrets = _pull_secrets(chart, *settings, *PULL_SECRET)
    assert pull_secrets
    assert {who: names for who, names in pull_secrets.items() if names != [{"name": "regcred"}]} == {}


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_no_pod_names_a_pull_secret_unless_there_is_one(chart: str, settings: tuple[str, ...]) -> None:
    assert {who: names for who, names in _pull_secrets(chart, *settings).items() if names is not None} == {}


def test_a_pod_without_the_pull_secret_and_one_with_it_unasked_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def pod(spec: dict[str, Any]) -> tuple[dict[str, Any]]:
        return ({"kind": "Pod", "metadata": {"name": "planted", "labels": {}}, "spec": spec},)

    monkeypatch.setattr("tests.charts.test_pull_secret.render", lambda *_: pod({}))
    with pytest.raises(AssertionError, match="planted"):
        test_every_pod_names_the_pull_secret("kafka", ())
    monkeypatch.setattr("tests.charts.test_pull_secret.render", lambda *_: pod({"imagePullSecrets": []}))
    with pytest.raises(AssertionError, match="planted"):
        test_no_pod_names_a_pull_secret_unless_there_is_one("kafka", ())


def test_the_bootstrap_gets_the_secret_to_copy_and_none_where_there_is_none() -> None:
    copied = [
        Config.model_validate_json(
            named(render("base", *settings), "ConfigMap", "bootstrap")["data"]["bootstrap.json"]
        ).pull_secret
        for settings in (PULL_SECRET, ())
    ]
    assert copied == ["regcred", ""]


@pytest.mark.parametrize("check", [False, True], ids=["driver", "check of a release"])
def test_what_the_launcher_starts_is_made_from_the_templates_that_name_it(project: Path, check: bool) -> None:
    """Spark adds to the pull secrets of a template and takes none away (Spark guide, "Running on Kubernetes", pod spec)."""
    text = named(render("airflow", *PULL_SECRET), "ConfigMap", "airflow-headrace")["data"]["deployment.json"]
    launcher = Deployment.model_validate_json(text).model_copy(update={"project": project}).launcher()
    assert isinstance(launcher, KubernetesLauncher)
    command = launcher.command("pos_sales", StartSpec(release="headrace-spark:2"), "life", check=check)
    conf = dict(part.split("=", 1) for part in command if part.startswith("spark.kubernetes."))
    templates = _pull_secrets("spark", *PULL_SECRET)
    for role in ("driver", "executor"):
        file = Path(conf[f"spark.kubernetes.{role}.podTemplateFile"]).name
        assert templates[f"ConfigMap/spark-pod-templates/{file}"] == [{"name": "regcred"}]


@pytest.mark.parametrize("chart", CHARTS)
def test_an_address_or_a_login_in_place_of_a_secrets_name_is_refused(chart: str) -> None:
    for wrong in ("registry.example.org/team", "user:password"):
        assert "imagePullSecret" in refusal(chart, f"imagePullSecret={wrong}")
