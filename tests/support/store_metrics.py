"""A real Kafka and Cassandra with the agent and the rules of the charts, and a real Prometheus that scrapes them."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from headrace.local import jars, platform
from headrace.local.java import Java, child_environment, find_java
from headrace.local.platform import Part
from headrace.local.settings import Settings
from tests.support.charts import ROOT
from tests.support.logged import logged
from tests.support.platform import free_ports, local_settings

Samples = dict[tuple[tuple[str, str], ...], float]
"""Labels -> value."""


@dataclass(frozen=True)
class Scraped:
    """The platform, and where its metrics are."""

    settings: Settings
    ports: dict[str, int]
    prometheus: int

    def text(self, system: str) -> str:
        """Return what the agent of a system prints."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[system]}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    def query(self, expression: str) -> Samples:
        """Return Prometheus's answer to an expression now."""
        words = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus}/api/v1/query?{words}", timeout=60) as answer:
            result = json.load(answer)["data"]["result"]
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in result}

    def awaited(self, expression: str, seconds: float = 300) -> Samples:
        """Wait until an expression has an answer and return it."""
        deadline = time.monotonic() + seconds
        while not (samples := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression} has no answer"
            time.sleep(0.5)
        return samples


@contextmanager
def scraped_platform(folder: Path) -> Iterator[Scraped]:
    """Start the servers with the agent, and Prometheus; end them afterwards."""
    settings = local_settings(folder / "home")
    java = find_java(settings)
    (agent,) = jars.ensure("agent", settings, java)
    kafka, cassandra, prometheus = free_ports(3)
    ports = {"kafka": kafka, "cassandra": cassandra}
    servers = platform._servers

    def environment(name: str, _settings: Settings, java: Java) -> dict[str, str]:
        rules = ROOT / "helm" / name / "files" / "metrics.yaml"
        return {**child_environment(java), "JAVA_TOOL_OPTIONS": f"-javaagent:{agent}=127.0.0.1:{ports[name]}:{rules}"}

    def with_agents(settings: Settings) -> list[Part]:
        return [replace(part, environment=partial(environment, part.name)) for part in servers(settings)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "_servers", with_agents)
        try:
            platform.up(settings)
            with _prometheus(folder, prometheus, ports):
                yield Scraped(settings, ports, prometheus)
        finally:
            platform.down(settings)


@contextmanager
def _prometheus(folder: Path, port: int, targets: dict[str, int]) -> Iterator[None]:
    scrapes = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]} for name, target in targets.items()
    ]
    settings = {"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}, "scrape_configs": scrapes}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with logged(
        folder, "prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ):  # fmt: skip
        yield
