"""What an Airflow that runs for months must lose: finished runs in its database, and its tasks' logs.

The supervisor alone makes 5,760 task instances a day. Cleaned when Airflow starts, once a week, so that no task needs
rights on the database. This is the local Airflow alone: on Kubernetes nothing cleans, see docs/howto/deploy.md.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

KEEP_DAYS = 14
EVERY_DAYS = 7
_DAY = 86_400


def clean(home: Path, run: Callable[..., subprocess.CompletedProcess[str]], log: Path) -> bool:
    """Remove what is older than KEEP_DAYS, at most every EVERY_DAYS; return whether it was time to.

    `run` runs Airflow's command line. A fault is written to `log` and keeps nobody from starting: it is tried again.
    """
    done = home / "cleaned"
    if not done.exists():
        done.touch(mode=0o600)  # new: there is nothing to remove yet
    if time.time() - done.stat().st_mtime < EVERY_DAYS * _DAY:
        return False
    before = time.time() - KEEP_DAYS * _DAY
    remove_older(home / "logs", before)
    words = ("--clean-before-timestamp", datetime.fromtimestamp(before, UTC).isoformat(), "--skip-archive", "--yes")
    ended = run("db", "clean", *words)
    log.write_text(ended.stdout + ended.stderr)
    if ended.returncode == 0:
        done.touch()
    return True


def remove_older(folder: Path, before: float) -> int:
    """Remove the files that were last written before a time (seconds since 1970), and folders that are empty then."""
    removed = 0
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside a folder comes before it
        if path.is_symlink() or path.is_file():
            if path.lstat().st_mtime < before:
                path.unlink(missing_ok=True)
                removed += 1
        elif path.is_dir() and path.stat().st_mtime < before and not any(path.iterdir()):
            path.rmdir()
    return removed
