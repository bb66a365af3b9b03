"""Clean-up for a long-running Airflow: finished runs in its database, and its tasks' logs.

    python -m headrace.local.airflow_upkeep LOGS [KEEP_DAYS]

The supervisor alone creates 5,760 task instances a day. Locally the clean-up runs when Airflow starts, once a week, so that
no task needs rights on the database. On Kubernetes the CronJob `airflow-upkeep` runs this module every night.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

KEEP_DAYS = 14
EVERY_DAYS = 7
_DAY = 86_400

Run = Callable[..., subprocess.CompletedProcess[str]]


def clean(home: Path, run: Run, log: Path) -> bool:
    """Remove what is older than KEEP_DAYS, at most every EVERY_DAYS; return whether it was due.

    `run` runs Airflow's command line. An error is written to `log` and prevents no start: the next start tries again.
    """
    done = home / "cleaned"
    if not done.exists():
        done.touch(mode=0o600)  # a new installation: there is nothing to remove yet
    if time.time() - done.stat().st_mtime < EVERY_DAYS * _DAY:
        return False
    ended = remove(home / "logs", run, KEEP_DAYS)
    log.write_text(ended.stdout + ended.stderr)
    if ended.returncode == 0:
        done.touch()
    return True


def remove(logs: Path, run: Run, keep_days: float) -> subprocess.CompletedProcess[str]:
    """Remove logs and database rows older than `keep_days` days; return the completed `airflow db clean`."""
    before = time.time() - keep_days * _DAY
    remove_older(logs, before)
    arguments = ("--clean-before-timestamp", datetime.fromtimestamp(before, UTC).isoformat(), "--skip-archive", "--yes")
    return run("db", "clean", *arguments)


def remove_older(folder: Path, before: float) -> int:
    """Remove files last written before a time (seconds since 1970), and folders that become empty; return their number."""
    removed = 0
    for path in sorted(folder.rglob("*"), reverse=True):  # the content of a folder comes before the folder
        if path.is_symlink() or path.is_file():
            if path.lstat().st_mtime < before:
                path.unlink(missing_ok=True)
                removed += 1
        elif path.is_dir() and path.stat().st_mtime < before and not any(path.iterdir()):
            path.rmdir()
    return removed


def main() -> None:
    """Clean the Airflow of this environment. Exits with the code of `airflow db clean`."""
    logs, *days = sys.argv[1:]
    ended = remove(Path(logs), _airflow, float(days[0]) if days else KEEP_DAYS)
    sys.exit(ended.returncode)


def _airflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Airflow's command line in this environment, with our output streams."""
    return subprocess.run([sys.executable, "-P", "-m", "airflow", *arguments], check=False, text=True)


if __name__ == "__main__":
    main()
