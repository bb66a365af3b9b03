"""What a query's running batch has done so far, to distinguish a working batch from a hung one (ADR 33).

Any of these counts as progress: a batch begins or ends, a job begins, a task finishes, a record is read, written or shuffled
(Spark's status store: running tasks report with each heartbeat of their executor), and processor time of the task threads
and their Python workers. Processor time is checked only if nothing else has moved for a while: loading a state, or a long
computation over one record, shows nowhere else. It is not visible on other machines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from py4j.protocol import Py4JError
from pyspark import SparkContext

from headrace.driver.queries import Running
from headrace.store.driver_files import RunningBatch

QUIET_SECONDS = 10.0
"""How long nothing in Spark's status store may move before processor time is checked."""

BUSY_SHARE = 0.02
"""As a share of one core: more than a polling thread needs, less than a thread gets on a busy machine."""

GARBAGE_SHARE = 0.9
"""A JVM whose collector takes this share of all its processor time does nothing else."""

_TASKS, _COLLECTOR = "Executor task l", "GC Thread"  # Linux truncates thread names to 15 characters


@dataclass(frozen=True)
class Done:
    """What Spark reports of a batch's jobs: their tasks, the finished ones, and the records they processed."""

    tasks: int = 0
    tasks_done: int = 0
    records: int = 0


@dataclass(frozen=True)
class Busy:
    """Processor seconds so far: of task threads with their Python workers, of the collector, of the entire JVM."""

    tasks: float
    collector: float
    everything: float


class Store(Protocol):
    """Where jobs are looked up: `SparkStore`, or a test double."""

    def jobs(self, run_id: str) -> dict[int, bool]:
        """Return the known jobs of a query, by its run id, and whether each runs."""

    def done(self, jobs: Iterable[int]) -> Done:
        """Return what these jobs have done."""

    def busy(self) -> Busy | None:
        """Return the processor time of this machine's tasks; None if they run on other machines."""


@dataclass
class _Seen:
    """What is remembered of a query between two observations. `newest` is the highest job; `jobs` those seen running."""

    batch: int | None
    batches: int
    since_ms: int
    moved_ms: int
    newest: int = -1
    jobs: set[int] = field(default_factory=set)
    done: Done = field(default_factory=Done)


@dataclass
class Watcher:
    """Remembers when each query last made progress. One thread calls `observe` every few seconds."""

    store: Store
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _busy: tuple[int, Busy] | None = None
    _garbage_since_ms: int | None = None
    _blind: bool = False

    def observe(self, running: Sequence[Running], now_ms: int) -> None:
        """Observe the running queries. `now_ms` is milliseconds since 1970, as everywhere here."""
        for entry in running:
            self._observe(entry, now_ms)
        quiet = [state for state in self._seen.values() if self._is_quiet(state, now_ms)]
        if not quiet:
            self._busy = self._garbage_since_ms = None
        elif self._works(now_ms):
            for state in quiet:
                state.moved_ms = now_ms

    def work(self, entry: Running) -> RunningBatch | None:
        """Return what a query's running batch has done by the last observation; None if none runs."""
        state = self._seen.get(entry.name)
        if state is None or state.batch is None:
            return None
        done, waits = state.done, entry.counters.waits
        return RunningBatch(
            since_ms=state.since_ms,
            tasks=done.tasks,
            tasks_done=done.tasks_done,
            records=done.records,
            waits=waits,
            blind=self._blind,
        )

    def moved_ms(self, entry: Running) -> int | None:
        """Return when a query last made progress; None before the first observation."""
        state = self._seen.get(entry.name)
        return state.moved_ms if state else None

    def garbage_seconds(self, now_ms: int) -> float:
        """Return for how long no batch has progressed while the collector took nearly all of the JVM's time."""
        return 0.0 if self._garbage_since_ms is None else (now_ms - self._garbage_since_ms) / 1000

    def _observe(self, entry: Running, now_ms: int) -> None:
        batch, batches = entry.counters.running_batch, entry.counters.batches
        state = self._seen.get(entry.name)
        if state is None or (state.batch, state.batches) != (batch, batches):
            newest = state.newest if state else -1
            state = self._seen[entry.name] = _Seen(batch, batches, now_ms, now_ms, newest)
        if batch is None:
            return
        jobs = self.store.jobs(str(entry.query.runId))
        state.jobs |= {job for job, runs in jobs.items() if runs}
        newest, done = max(jobs, default=-1), self.store.done(state.jobs)
        if entry.counters.waits or (newest, done) != (state.newest, state.done):
            state.newest, state.done, state.moved_ms = newest, done, now_ms

    def _is_quiet(self, state: _Seen, now_ms: int) -> bool:
        return state.batch is not None and now_ms - state.moved_ms > QUIET_SECONDS * 1000

    def _works(self, now_ms: int) -> bool:
        """Return whether this machine's tasks have used the processor since the last observation."""
        busy, before = self.store.busy(), self._busy
        self._blind = busy is None
        if busy is None:
            return False
        self._busy = now_ms, busy
        if before is None or now_ms <= before[0]:
            return False
        at_ms, earlier = before
        enough = BUSY_SHARE * (now_ms - at_ms) / 1000
        spent = busy.everything - earlier.everything
        thrashes = spent > enough and busy.collector - earlier.collector > GARBAGE_SHARE * spent
        if thrashes:
            self._garbage_since_ms = at_ms if self._garbage_since_ms is None else self._garbage_since_ms
        else:
            self._garbage_since_ms = None
        return not thrashes and busy.tasks - earlier.tasks > enough


class SparkStore:
    """Spark's own record of its jobs, and the threads of its JVM."""

    def __init__(self, context: SparkContext, jvm_pid: int | None) -> None:
        self._tracker = context.statusTracker()
        self._stages = context._jsc.sc().statusStore()
        self._pid = jvm_pid if context.master.startswith("local") else None
        self._ended: set[int] = set()

    def jobs(self, run_id: str) -> dict[int, bool]:
        """Return the jobs of a query and whether each runs; a query's run id is its job group."""
        result = {}
        for job in self._tracker.getJobIdsForGroup(run_id):
            known = None if job in self._ended else self._tracker.getJobInfo(job)
            result[job] = known is not None and known.status == "RUNNING"
            if known is not None and not result[job]:
                self._ended.add(job)
        return result

    def done(self, jobs: Iterable[int]) -> Done:
        """Return what these jobs have done; jobs that Spark has forgotten are left out."""
        tasks = tasks_done = records = 0
        infos = [self._tracker.getJobInfo(job) for job in jobs]
        for stage in {stage for info in infos if info is not None for stage in info.stageIds}:
            with contextlib.suppress(Py4JError):  # NoSuchElementException: not begun, skipped, or forgotten
                data = self._stages.lastStageAttempt(stage)
                tasks += data.numTasks()
                tasks_done += data.numCompleteTasks()
                records += data.inputRecords() + data.outputRecords()
                records += data.shuffleReadRecords() + data.shuffleWriteRecords()
        return Done(tasks, tasks_done, records)

    def busy(self) -> Busy | None:
        """Return the processor time of the JVM's threads and its Python workers, from /proc; None on other machines."""
        return None if self._pid is None else busy_of(self._pid)


def busy_of(jvm_pid: int) -> Busy | None:
    """Return the processor time of a JVM and its children; None if it has ended or this system has no /proc."""
    threads = [
        (comm, seconds)
        for place in Path(f"/proc/{jvm_pid}/task").glob("[0-9]*")
        for comm, seconds in _times(place / "stat", with_children=False)
    ]
    if not threads:
        return None
    workers = sum(seconds for pid in _below(jvm_pid) for _, seconds in _times(Path(f"/proc/{pid}/stat")))
    tasks = sum(seconds for comm, seconds in threads if comm.startswith(_TASKS))
    collector = sum(seconds for comm, seconds in threads if comm.startswith(_COLLECTOR))
    return Busy(tasks + workers, collector, sum(seconds for _, seconds in threads) + workers)


def _below(pid: int) -> Iterator[int]:
    """Yield all descendants of a process."""
    for place in Path(f"/proc/{pid}/task").glob("[0-9]*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, place.read_text().split()):
                yield child
                yield from _below(child)


def _times(stat: Path, *, with_children: bool = True) -> Iterator[tuple[str, float]]:
    """Yield name and processor seconds of a thread or process, including ended children; nothing if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        name, _, rest = stat.read_text(errors="replace").partition("(")[2].rpartition(")")
        fields = rest.split()
        ticks = [int(field) for field in fields[11 : 15 if with_children else 13]]
        yield name, sum(ticks) / _TICKS


_TICKS = 100.0  # per second, in /proc on all Linux systems (USER_HZ)
