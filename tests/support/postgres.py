"""A real PostgreSQL on a free loopback port, with a password, in a separate folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.platform import free_ports

PASSWORD = "not a secret"
DEADLINE_SECONDS = 300


@contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """Start a server and yield the files of a binding to it. Skips the test if the machine has no PostgreSQL."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None or server is None:
        pytest.skip("this machine has no PostgreSQL server (initdb, postgres)")
    # The server refuses to run as root; the account comes with Debian's package.
    user = "postgres" if os.geteuid() == 0 else None
    data, secret = folder / "data", folder / "password"
    folder.mkdir(parents=True, exist_ok=True)
    secret.write_text(PASSWORD)
    if user:
        for part in [folder, *folder.parents]:
            if part.stat().st_uid == 0 and not part.stat().st_mode & 0o001 and part != Path("/"):
                part.chmod(part.stat().st_mode | 0o011)
        shutil.chown(folder, user)
        shutil.chown(secret, user)
    subprocess.run(
        [initdb, "-D", data, "-U", "reader", "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-sync"],
        check=True, capture_output=True, user=user, cwd=folder,
    )  # fmt: skip
    (port,) = free_ports(1)
    log = (folder / "log").open("wb")
    child = subprocess.Popen(
        [server, "-D", data, "-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
         "-c", "unix_socket_directories="],
        stdout=log, stderr=log, user=user, cwd=folder,
    )  # fmt: skip
    binding = {
        "host": "127.0.0.1",
        "port": str(port),
        "database": "postgres",
        "username": "reader",
        "password": PASSWORD,
    }
    try:
        _await(child, binding)
        yield binding
    finally:
        child.send_signal(signal.SIGINT)  # does not wait for connections that are left open
        child.wait(DEADLINE_SECONDS)
        log.close()


def _await(child: subprocess.Popen[bytes], binding: dict[str, str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            execute(binding, "SELECT 1")
        except Exception:
            assert child.poll() is None, "PostgreSQL exited during its start"
            assert time.monotonic() < deadline, "PostgreSQL did not answer"
            time.sleep(0.1)
        else:
            return


def execute(binding: dict[str, str], *statements: str) -> None:
    """Run statements in one transaction."""
    import psycopg2

    connection = psycopg2.connect(
        host=binding["host"],
        port=binding["port"],
        dbname=binding["database"],
        user=binding["username"],
        password=binding["password"],
    )
    try:
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()
