"""Grafana's dashboards: the committed files are those of the code, they ask for metrics that exist, and the chart ships them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from headrace.cluster import exporter
from tests.charts.test_alerts import FOREIGN, NAME, RULES, printed_metrics, promtool, stores_metrics
from tests.support.charts import MONITORED, ROOT, named, render

FOLDER = ROOT / "helm" / "spark" / "files" / "dashboards"
NAMES = ("platform", "stores", "streams")


def _code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("headrace_dashboards", ROOT / "helm" / "dashboards.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _board(name: str) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return board


def test_the_files_are_those_that_the_code_makes() -> None:
    code = _code()
    assert sorted(path.stem for path in FOLDER.glob("*")) == sorted(code.DASHBOARDS) == list(NAMES)
    for name in NAMES:
        assert (FOLDER / f"{name}.json").read_text() == code.rendered(name), "run .venv/bin/python helm/dashboards.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_asks_for_metrics_that_a_driver_or_the_exporter_prints(name: str) -> None:
    panels = _board(name)["panels"]
    assert len(panels) > 5
    for panel in panels:
        (target,) = panel["targets"]
        used = set(NAME.findall(target["expr"]))
        assert used, panel["title"]
        assert used <= printed_metrics() | FOREIGN, panel["title"]
        assert panel["options"], panel["title"]
        assert panel["datasource"]["uid"] == "${source}", "the data source is chosen, none is fixed"


def test_every_query_is_one_that_prometheus_parses(tmp_path: Path) -> None:
    queries = [panel["targets"][0]["expr"] for name in NAMES for panel in _board(name)["panels"]]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = [promtool(), "check", "rules", "rules.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_the_exporter_and_of_the_stores_is_on_a_dashboard_or_in_an_alert() -> None:
    shown = "".join((FOLDER / f"{name}.json").read_text() for name in NAMES) + RULES.read_text()
    ours = [*exporter.METRICS, *stores_metrics()]
    assert [metric for metric in ours if not re.search(rf"\b{metric}\b", shown)] == []


def test_the_chart_ships_them_for_grafanas_sidecar() -> None:
    shipped = named(render("spark", *MONITORED), "ConfigMap", "headrace-dashboards")
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in shipped["data"].items()} == {
        f"headrace-{name}.json": _board(name) for name in NAMES
    }
