"""The operator's commands as typed: `headrace stream ...` in a project's folder, against the platform of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from headrace.local.settings import Settings
from tests.support.drivers import DEADLINE_SECONDS


class Typed:
    """Commands in a project's folder, against the platform of the tests."""

    def __init__(self, settings: Settings, project: Path) -> None:
        values = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        self._environment = {**os.environ, **{f"HEADRACE_{key.upper()}": str(value) for key, value in values.items()}}
        self._environment |= {"COLUMNS": "200"}
        self._project = project

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run `headrace stream ...` and return what it printed; it must end with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "headrace.cli.app", "stream", *arguments],
            cwd=self._project, env=self._environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout or done.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run with --json and return the value."""
        return json.loads(self(*arguments, "--json", code=code))
