"""One driver a pipeline: of two that start at once, one runs and the other leaves before it does anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.contract.exit_codes import Exit
from headrace.driver.lock import hold
from headrace.errors import HeadraceError

# Each line is a lock file to try for; an empty one lets go of it. Says how each try went.
HOLDER = """
import os, sys
from pathlib import Path
from headrace.errors import HeadraceError
from headrace.driver.lock import hold
kept = None
print("ready", flush=True)
for line in sys.stdin:
    if line.strip():
        try:
            kept = hold(Path(line.strip()), "pos_sales")
        except HeadraceError as error:
            print("refused", flush=True)
        else:
            print("held", flush=True)
    elif kept is not None:
        os.close(kept)
        kept = None
"""


class Holder:
    """A process that tries for a lock when told to."""

    def __init__(self) -> None:
        argv = [sys.executable, "-c", HOLDER]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def tell(self, line: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        with self.process:  # closes both ends and waits
            self.process.kill()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    """Two processes, both past their imports."""
    both = [Holder(), Holder()]
    try:
        assert [holder.answer() for holder in both] == ["ready", "ready"]
        yield both
    finally:
        for holder in both:
            holder.end()


def test_of_two_drivers_that_start_at_once_exactly_one_gets_the_lock_twenty_times(
    tmp_path: Path, holders: list[Holder]
) -> None:
    for race in range(20):
        for holder in holders:
            holder.tell(tmp_path / f"{race % 2}" / "driver.lock")
        assert sorted(holder.answer() for holder in holders) == ["held", "refused"]
        for holder in holders:
            holder.tell("")


def test_the_second_driver_reports_who_holds_the_lock_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    descriptor = hold(path, "pos_sales")
    try:
        with pytest.raises(HeadraceError) as refused:
            hold(path, "pos_sales")
        assert refused.value.exit_code == Exit.LOCKED
        assert f"process {os.getpid()}" in str(refused.value)
        assert "headrace stream stop pos_sales" in str(refused.value)
    finally:
        os.close(descriptor)


def test_a_killed_driver_leaves_no_lock_behind(tmp_path: Path, holders: list[Holder]) -> None:
    path = tmp_path / "driver.lock"
    holders[0].tell(path)
    assert holders[0].answer() == "held"
    holders[0].end()
    holders[1].tell(path)
    assert holders[1].answer() == "held"


def test_a_child_of_the_driver_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Python workers and the JVM may outlive their driver by a moment."""
    path = tmp_path / "driver.lock"
    descriptor = hold(path, "pos_sales")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        os.close(descriptor)
        deadline = time.monotonic() + 300
        while True:  # exec closes the child's descriptors one after the other, a moment after Popen returns
            try:
                os.close(hold(path, "pos_sales"))
                break
            except HeadraceError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        child.kill()
        with child:
            pass
