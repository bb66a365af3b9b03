"""Hands the clock of `Ground.fake_clock` on to the servers and drivers, which `headrace` starts with few variables.

Python imports it in each process of the platform, because its folder is on their PYTHONPATH.
"""

import os
import subprocess
from typing import Any

NAMES = [name for name in os.environ if name.startswith("FAKETIME_")] + ["LD_PRELOAD", "PYTHONPATH"]
HANDED_ON = {name: os.environ[name] for name in NAMES if name in os.environ}

_start: Any = subprocess.Popen.__init__


def _start_with_clock(process: object, *args: Any, env: Any = None, **options: Any) -> None:  # noqa: ANN401
    _start(process, *args, env=None if env is None else {**env, **HANDED_ON}, **options)


subprocess.Popen.__init__ = _start_with_clock  # type: ignore[method-assign]
