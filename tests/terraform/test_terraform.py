"""Terraform without a cluster: formatted, valid, linted, and every promise and refusal of infra/terraform/tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.charts import ROOT, must_have_tools, tool

SOURCE = ROOT / "infra" / "terraform"


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose providers are there: nothing is left in the repository, no lock file of stand-ins either."""
    tool("terraform")
    if "TF_CLI_CONFIG_FILE" not in os.environ and not (ROOT / ".tools" / "terraformrc").exists():
        assert not must_have_tools(), "the providers' mirror is missing: CI must have it"
        pytest.skip("no provider mirror: set TF_CLI_CONFIG_FILE")
    folder = tmp_path_factory.mktemp("repository") / "infra" / "terraform"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns(".terraform*"))
    shutil.copytree(ROOT / "helm", folder.parent.parent / "helm")
    done = _terraform(folder, "init", "-backend=false", "-input=false")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _terraform(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # The stand-ins of the providers are then as strict as the published ones.
    environment = os.environ | {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "STANDIN": "published"}
    environment.setdefault("TF_CLI_CONFIG_FILE", str(ROOT / ".tools" / "terraformrc"))
    command = [tool("terraform"), f"-chdir={folder}", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_promise_holds_and_bad_input_is_refused_with_a_remedy(initialised: Path) -> None:
    """Slow: Terraform plans for each of them, half a minute on two busy cores."""
    done = _terraform(initialised, "test", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


@pytest.mark.slow
def test_it_is_valid_formatted_and_linted(initialised: Path) -> None:
    """Slow: the providers start for their schemas."""
    done = _terraform(initialised, "validate", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr
    done = _terraform(initialised, "fmt", "-check", "-recursive")
    assert done.returncode == 0, done.stdout
    lint = [tool("tflint"), f"--chdir={initialised}", "--recursive"]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_chart_whose_files_changed_is_applied_though_its_version_did_not(initialised: Path) -> None:
    """Slow: Terraform plans three times."""
    helm = initialised.parent.parent / "helm"
    before = _planned(initialised)
    assert set(before) == {"base", "kafka", "cassandra", "spark", "airflow"}
    assert _planned(initialised) == before
    for name in ("kafka/templates/pdb.yaml", "spark/README.md"):
        with (helm / name).open("a") as file:
            file.write("\n")
    after = _planned(initialised)
    assert [name for name, values in after.items() if values != before[name]] == ["kafka"], "READMEs are not applied"


def _planned(folder: Path) -> dict[str, list[str]]:
    """Return release -> values of a plan for an empty cluster."""
    kubeconfig = folder / "kubeconfig"  # the published provider refuses a file that is not there
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: none, "
        "clusters: [{name: none, cluster: {server: 'https://127.0.0.1:1'}}], "
        "contexts: [{name: none, context: {cluster: none, user: none}}], users: [{name: none, user: {}}]}\n"
    )
    variables = {
        "kubeconfig": str(kubeconfig), "size": "1", "images": '{airflow="localhost/a:1", spark="localhost/s:1"}',
        "storage": '{source={hostPath={path="/srv/headrace"}}}',
    }  # fmt: skip
    words = [f"-var={name}={value}" for name, value in variables.items()]
    done = _terraform(folder, "plan", "-input=false", "-no-color", "-refresh=false", "-out=plan", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(_terraform(folder, "show", "-json", "plan").stdout)["resource_changes"]
    return {
        resource["change"]["after"]["name"]: resource["change"]["after"]["values"]
        for resource in shown if resource["type"] == "helm_release"
    }  # fmt: skip


def test_variables_are_few_typed_and_described() -> None:
    text = (SOURCE / "variables.tf").read_text()
    blocks = re.findall(r'^variable "(\w+)" \{(.*?)^\}', text, re.DOTALL | re.MULTILINE)
    assert 10 < len(blocks) < 25
    for name, body in blocks:
        assert re.search(r"^  description += ", body, re.MULTILINE), name
        assert re.search(r"^  type += ", body, re.MULTILINE), name


def test_each_environment_sets_variables_that_there_are() -> None:
    environments = list((SOURCE / "environments").glob("*.tfvars"))
    declared = set(re.findall(r'^variable "(\w+)"', (SOURCE / "variables.tf").read_text(), re.MULTILINE))
    assert environments
    for path in environments:
        assert set(re.findall(r"^(\w+) *=", path.read_text(), re.MULTILINE)) <= declared, path.name


def test_every_environment_that_is_not_local_keeps_its_volumes() -> None:
    others = [path for path in (SOURCE / "environments").glob("*.tfvars") if path.stem != "local"]
    assert others
    for path in others:
        assert re.search(r"^keep_volumes +?= true$", path.read_text(), re.MULTILINE), path.name


def test_the_free_values_of_a_chart_are_those_that_no_variable_of_ours_sets() -> None:
    """`stores` and `airflow` are passed on: their keys are refused at plan where the chart's schema would refuse them."""
    text, main = (SOURCE / "variables.tf").read_text(), (SOURCE / "main.tf").read_text()
    for chart, variable in (("kafka", "stores.kafka"), ("cassandra", "stores.cassandra"), ("airflow", "airflow")):
        listed = re.findall(rf"setsubtract\(keys\(var\.{re.escape(variable)}\), \[([^\]]+)\]", text)
        assert len(listed) == 1
        free = set(re.findall(r'"(\w+)"', listed[0]))
        known = set(json.loads((ROOT / "helm" / chart / "values.schema.json").read_text())["properties"]) - {"global"}
        assert free <= known, chart
        (block,) = re.findall(rf'^module "{chart}" \{{(.*?)^\}}', main, re.DOTALL | re.MULTILINE)
        assert {name for name in known - free if not re.search(rf"\b{name}\s*=", block)} == set(), chart


def test_no_kubernetes_manifest_and_no_lock_of_stand_ins() -> None:
    assert not [path for path in SOURCE.rglob("*.tf") if "kubernetes_manifest" in path.read_text()]
    listed = subprocess.run(["git", "ls-files", "infra"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".terraform.lock.hcl" not in listed
