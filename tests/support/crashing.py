"""Stages whose driver kills itself at a planned point (`tests.support.crash`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support import crash
from tests.support.drivers import SAFE_PATH, Stage

ENTRY_POINT = Path(crash.__file__)


def variables(plan: Path) -> dict[str, str]:
    """Return the environment of a driver that follows a plan."""
    return {"HEADRACE_CRASH_PLAN": str(plan)} | SAFE_PATH


def crashing(stage: Stage, plan: Path) -> Stage:
    """Return a stage of the same pipeline, on the same storage root, whose driver follows a plan."""
    environment = dict(stage.launcher.environment) | variables(plan)
    return Stage(stage.settings, stage.pipeline, replace(stage.launcher, main=ENTRY_POINT, environment=environment))


def run_into(stage: Stage, plan: Path, wanted: Mapping[str, Any]) -> None:
    """Run the driver of such a stage until it is killed at a point, and its entire group is gone."""
    plan.write_text(json.dumps(wanted))
    stage.start()
    assert stage.await_end() == -9, stage.log[-6000:]
    assert plan.with_suffix(".fired").exists()
    stage.kill()  # remaining processes of the group
