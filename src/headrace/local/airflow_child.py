"""One component of Airflow as a child process: `python -P -m headrace.local.airflow_child <mark> scheduler ...`.

Airflow's components overwrite their command line (setproctitle), by which this platform recognises its processes. Here the
first process keeps it, and forked processes never have it: a worker that outlived its scheduler is not mistaken for it.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the Airflow command that follows the mark."""
    _mark, *command = sys.argv[1:]
    _keep_command_line(command[0])
    sys.argv = ["airflow", *command]
    os.umask(0o077)  # task logs contain everything that tasks print
    from airflow.__main__ import main as airflow

    airflow()  # type: ignore[no-untyped-call]


def _keep_command_line(component: str) -> None:
    if sys.platform == "darwin":  # there setproctitle after a fork crashes the process
        return
    import setproctitle

    real, first = setproctitle.setproctitle, os.getpid()

    def in_children(title: str) -> None:
        if os.getpid() != first:
            real(title)

    setproctitle.setproctitle = in_children
    os.register_at_fork(after_in_child=lambda: real(f"airflow {component} child"))


if __name__ == "__main__":
    main()
