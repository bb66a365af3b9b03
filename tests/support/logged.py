"""A server of a test whose output goes to a file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logged(folder: Path, *command: str) -> Iterator[None]:
    """Run a command in a folder, with its output in `<program>.log` there, and kill it at the end."""
    with (folder / f"{command[0]}.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            yield
        finally:
            child.kill()
            child.wait(120)
