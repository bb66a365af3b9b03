"""The platform under test: its own project folder and home, driven by the `headrace` command as an operator does."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parent.parent
PIPELINES = {
    "pos_sales": ("pos",),
    "web_events": ("quickstart",),
    "sensors": ("sensor_readings",),
    "user_logins": ("logins",),
    "ad_attribution": ("impressions", "clicks"),
}
"""Each pipeline and the topics that it reads."""

PORTS = ("KAFKA", "KAFKA_CONTROLLER", "CASSANDRA", "CASSANDRA_STORAGE", "CASSANDRA_JMX")
COMMAND_SECONDS = 600
HEAP = "512m"
STORAGE_SIZE = "256m"


def _free_ports(count: int) -> list[int]:
    """Return different free ports below those of outgoing connections: a server that is killed finds its port still free."""
    ports: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(range(20_000, 32_000), 12_000):
            if len(ports) == count:
                break
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


@dataclass
class Ground:
    """One platform in `folder`; `log` receives the output of every command."""

    folder: Path
    pipelines: Sequence[str] = tuple(PIPELINES)
    environment: dict[str, str] = field(init=False)
    command: Path = field(init=False)
    supervisor: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        ports = dict(zip((f"HEADRACE_{name}_PORT" for name in PORTS), map(str, _free_ports(len(PORTS))), strict=True))
        small = {"HEADRACE_KAFKA_HEAP": "256m", "HEADRACE_CASSANDRA_HEAP": "384m", "HEADRACE_DRIVER_HEAP": HEAP}
        settings = {"HEADRACE_HOME": str(self.home), "HEADRACE_AIRFLOW": "false", "HEADRACE_START_TIMEOUT_S": "400"}
        self.environment = dict(os.environ) | ports | small | settings | {"COLUMNS": "200"}

    def use(self, checkout: Path = PROJECT) -> None:
        """Switch to the release of a checkout: its command, its pipeline files, its transforms."""
        for name in ("pipelines", "spark_jobs"):
            shutil.rmtree(self.tree / name, ignore_errors=True)
            (self.tree / name).mkdir(parents=True)
            for source in (checkout / name, PROJECT / "chaos" / name):
                for path in source.iterdir():
                    if path.stem in {*self.pipelines, "main", "batch"} and path.suffix in {".yaml", ".py"}:
                        shutil.copy(path, self.tree / name)
        shutil.copy(checkout / "spark_jobs" / "main.py", self.tree / "spark_jobs" / "true_main.py")
        venv = Path(sys.executable).parent if checkout == PROJECT else checkout / ".venv" / "bin"
        self.command = venv / "headrace"

    @property
    def tree(self) -> Path:
        """The project folder: pipelines/ and spark_jobs/."""
        return self.folder / "tree"

    @property
    def home(self) -> Path:
        """The equivalent of `.headrace` in a project."""
        return self.folder / "home"

    @property
    def storage(self) -> Path:
        """The storage root: checkpoints, files, lake."""
        return self.home / "storage"

    @property
    def admin(self) -> Path:
        """The administrator's bindings of Kafka and Cassandra."""
        return self.home / "bindings" / "admin"

    @property
    def log(self) -> Path:
        """The file with the output of all commands."""
        return self.folder / "commands.log"

    def headrace(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the product; its output is logged, and the caller judges its exit code."""
        done = subprocess.run(
            [str(self.command), *arguments],
            cwd=self.tree, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        with self.log.open("a") as log:
            log.write(f"$ headrace {' '.join(arguments)}\n{done.stdout}{done.stderr}[{done.returncode}]\n")
        return done

    def must(self, *arguments: str) -> str:
        """Run a command that must succeed and return its output. Raises RuntimeError with the end of its output."""
        done = self.headrace(*arguments)
        if done.returncode:
            raise RuntimeError(
                f"headrace {' '.join(arguments)} exited with {done.returncode}: {(done.stdout + done.stderr)[-800:]}"
            )
        return done.stdout

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        """Run a command with --json and return the parsed output, whatever its exit code."""
        return json.loads(self.headrace(*arguments, "--json").stdout)

    def supervise(self) -> None:
        """Start the supervisor of all pipelines, if none of this platform runs."""
        if self.supervisor is None or self.supervisor.poll() is not None:
            with (self.folder / "supervisor.log").open("ab") as log:
                self.supervisor = subprocess.Popen(
                    [str(self.command), "stream", "supervise", "--every", "3"],
                    cwd=self.tree, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip

    def server(self, name: str) -> psutil.Process | None:
        """Return the process of Kafka ("kafka") or Cassandra ("cassandra") of this platform."""
        return _first(f"{self.home}/etc/{name}")

    def driver(self, pipeline: str) -> list[psutil.Process]:
        """Return the driver's Python process, its JVM and workers, Python first; empty if none runs."""
        process = _first("spark_jobs/main.py", str(self.home), only=pipeline)
        try:
            return [process, *process.children(recursive=True)] if process else []
        except psutil.NoSuchProcess:
            return []

    @property
    def clock_step(self) -> Path:
        """The file with the seconds by which the clock of each driver that starts now is wrong."""
        return self.tree / "clock-step"

    def limit_storage(self) -> None:
        """Put the storage root on a disk that is small enough to be filled, if this user may mount one."""
        self.storage.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STORAGE_SIZE}", "tmpfs", str(self.storage)], check=False)

    def end_supervisor(self) -> None:
        """Kill the supervisor, if one of this platform runs."""
        if self.supervisor is not None:
            self.supervisor.kill()
            self.supervisor.wait()

    def close(self, *, keep: bool = False) -> None:
        """Stop everything that this ground has started. `keep`: the files of a limited storage root are kept."""
        self.end_supervisor()
        self.headrace("down")
        if self.storage.is_mount():
            if keep:
                shutil.copytree(self.storage, self.folder / "storage", dirs_exist_ok=True)
            subprocess.run(["umount", "--lazy", str(self.storage)], check=False)


def _first(*parts: str, only: str | None = None) -> psutil.Process | None:
    """Return the first process whose command line contains all parts, and `only` as a separate argument."""
    for process in psutil.process_iter():
        try:
            line: Sequence[str] = process.cmdline()
        except psutil.Error:
            continue
        text = " ".join(line)
        if all(part in text for part in parts) and (only is None or only in line) and process.pid != os.getpid():
            return process
    return None
