"""Each refusal by its sentence: the good pipeline with one fault, and what is said of it, remedy included.

The faults are in refusals/*.yaml: `change` maps a dotted key of good.yaml to its new value, `<gone>` removes the key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from headrace.contract import rules, rules_sinks, rules_state, rules_topics
from headrace.contract.model import Pipeline
from tests.contract.conftest import HERE, changed, refusal

FAULTS = [fault for path in sorted(HERE.glob("refusals/*.yaml")) for fault in yaml.safe_load(path.read_text())]
RULES = [*rules.RULES, *rules_state.RULES, *rules_sinks.RULES, *rules_topics.RULES]


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault["fault"]) for fault in FAULTS])
def test_a_fault_is_refused_with_its_remedy(broken: Callable[..., Path], fault: dict[str, Any]) -> None:
    path = broken(fault["change"])
    lines = refusal(path).splitlines()
    assert any(fault["says"] in line for line in lines), "\n".join(lines)
    assert all(line.startswith(f"{path}: ") and line.endswith(".") for line in lines), "\n".join(lines)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_silent_on_the_good_pipeline_and_speaks_on_a_bad_one(rule: Any, good: Pipeline) -> None:
    assert list(rule(good)) == []
    assert any(list(rule(pipeline)) for pipeline in _pipelines_with_a_fault())


@cache
def _pipelines_with_a_fault() -> list[Pipeline]:
    pipelines = []
    for fault in FAULTS:
        try:
            pipelines.append(Pipeline.model_validate(changed(fault["change"])))
        except ValidationError:
            continue  # refused by the shape of a single field already
    return pipelines


def test_all_faults_of_a_file_are_reported_one_a_line(broken: Callable[..., Path]) -> None:
    path = broken({"queries.copied.mode": "apend", "owner": "<gone>", "sources.sales.columns.amount.type": "float"})
    keys = [line.removeprefix(f"{path}: ").split(":")[0] for line in refusal(path).splitlines()]
    assert keys == ["owner", "sources.sales.columns.amount.type", "queries.copied.mode"]
    path = broken({"queries.windows.late": "<gone>", "queries.copied.late": "drop"})
    assert len(refusal(path).splitlines()) == 2


def test_every_rule_is_asked() -> None:
    written = {
        name
        for module in (rules, rules_state, rules_sinks, rules_topics)
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }
    assert written - {"faults", "metric_name"} == {rule.__name__ for rule in RULES}
