"""The lifecycle of a driver: lock, session, checks, queries, supervision, stop. It ends with an `Exit` code.

Every query is supervised by name: awaitAnyTermination would miss a second failed query and raise for one that ended long
ago (Spark guide, "Managing Streaming Queries"). If any query ends, the driver stops the others and exits. SIGTERM closes
the gate: running batches may finish within the grace period, and none begins. Correctness never depends on it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.sql import SparkSession
from pyspark.sql.streaming import StreamingQuery

from headrace.access.bindings import read_cassandra, read_kafka
from headrace.contract.exit_codes import Exit
from headrace.contract.model import Pipeline
from headrace.driver import error_causes, hung_batches, lock, progress, queries, session, work, writer
from headrace.driver.consumer_groups import GroupCommitter
from headrace.errors import HeadraceError
from headrace.store import pace, paths, spark_conf, topic_identity
from headrace.store.checkpoint_log import newest_batch
from headrace.store.driver_files import Heartbeat

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5

JVM_END_SECONDS = 10.0  # between the JVM closing its connections and exiting

GARBAGE_SECONDS = 60.0
"""How long garbage collection may take nearly all of the JVM's time before the driver exits with OUT_OF_MEMORY."""


@dataclass(frozen=True)
class Options:
    """How to run one driver. `lock_file` is None if something else fences it (a fixed pod name)."""

    root: str
    bindings: Path
    conf: Mapping[str, str]
    lock_file: Path | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    grace_seconds: float = 30
    new_generations: frozenset[str] = frozenset()
    request: str = ""  # identifies the start that asks for them, across all restarts of its driver
    instance: str = ""  # repeated in the heartbeat to identify this driver (`operations.drivers.interface.Driver`)


def run(pipeline: Pipeline, module: ModuleType, options: Options) -> Exit:
    """Run a pipeline until a signal stops it or a query ends. Raises HeadraceError if the start is refused."""
    stop = threading.Event()
    _stop_on_signals(stop)
    held = lock.hold(options.lock_file, pipeline.name) if options.lock_file else None
    transforms = queries.transforms_of(pipeline, module)
    kafka = read_kafka(options.bindings)
    level = pace.level(options.root, pipeline.name)
    pipeline = pace.applied(pipeline, level)
    conf = (
        spark_conf.spark_conf(pipeline, paths.lake(options.root))
        | dict(options.conf)
        | (pace.LEVELS[level].conf if level else {})
    )
    if level:
        log.warning(
            "%s reads less at once since a driver ran out of memory: %s", pipeline.name, pace.describe(conf, pipeline)
        )
    spark = session.start(pipeline.name, conf, read_cassandra(options.bindings))
    jvm_lock = lock.hold_in_jvm(spark, options.lock_file, pipeline.name) if options.lock_file else None
    gate = writer.Gate()
    groups = GroupCommitter(spark, kafka)
    driver = queries.DriverContext(spark, pipeline, transforms, options.root, kafka, groups, gate)
    running: list[queries.Running] = []
    metrics = progress.Metrics(options.metrics_host, options.metrics_port)
    watcher = work.Watcher(work.SparkStore(spark.sparkContext, session.jvm_pid(spark)))
    try:
        running += queries.start_all(driver, options.new_generations, options.request)
        log.info("%s: %d queries running", pipeline.name, len(running))
        board = Board(pipeline, options, metrics, watcher)
        ended = _supervise(board, running, spark, stop)
        outcome = board.end or (_classify(ended) if ended else Exit.FINISHED)
        if outcome is Exit.DAMAGED and (replaced := _replaced_topic(ended, groups, options.root)):
            outcome, board.why = Exit.REFUSED, replaced
            log.error("%s", replaced)
        in_time = _stop_all(running, gate, options)
        board.beat(running, None, outcome)
        outcome = Exit.CUT_OFF if outcome is Exit.FINISHED and not in_time else outcome
        unresponsive = [entry.name for entry in running if entry.query.isActive]
        if unresponsive:
            log.error("%s: %s cannot be stopped; killing the JVM", pipeline.name, ", ".join(unresponsive))
            session.abandon(spark, outcome)
        return outcome
    finally:
        gate.closed.set()
        gate.ended.set()
        metrics.close()
        groups.close()
        _end_session(spark)
        log.info("%s: driver exits (locks %s, %s)", pipeline.name, held, jvm_lock is not None)


def check(pipeline: Pipeline, module: ModuleType, options: Options) -> dict[str, list[str]]:
    """Plan every query and return by query what its checkpoint cannot take of the plan. A driver may run meanwhile.

    Raises HeadraceError if a plan is not allowed at all. Starts no query and takes no lock.
    """
    transforms = queries.transforms_of(pipeline, module)
    kafka = read_kafka(options.bindings)
    conf = (
        spark_conf.spark_conf(pipeline, paths.lake(options.root)) | dict(options.conf) | {"spark.ui.enabled": "false"}
    )
    spark = session.start(f"{pipeline.name} check", conf, read_cassandra(options.bindings))
    groups = GroupCommitter(spark, kafka)
    try:
        driver = queries.DriverContext(spark, pipeline, transforms, options.root, kafka, groups, writer.Gate())
        return queries.unsafe_changes(driver)
    finally:
        groups.close()
        spark.stop()


def _stop_on_signals(stop: threading.Event) -> None:
    def request_stop(number: int, frame: FrameType | None) -> None:
        log.info("received signal %d: stopping", number)
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)


@dataclass
class Board:
    """Publishes the state of a driver: heartbeat and metrics."""

    pipeline: Pipeline
    options: Options
    metrics: progress.Metrics
    watcher: work.Watcher
    rates: dict[str, progress.Rates] = field(default_factory=lambda: defaultdict(progress.Rates))
    end: Exit | None = None  # set if the driver itself found a reason to exit
    why: str = ""

    def beat(self, running: Sequence[queries.Running], ui: str | None, outcome: Exit | None) -> None:
        """Observe every query and publish its state. `outcome` is how the driver ends, None while it runs."""
        states = [
            progress.observe(
                entry.query,
                entry.name,
                entry.generation.number,
                entry.trigger_ms,
                entry.counters,
                moved_ms=self.watcher.moved_ms(entry),
                work=self.watcher.work(entry),
                rates=self.rates[entry.name],
            )
            for entry in running
        ]
        self.metrics.states = states
        heartbeat = Heartbeat(
            pipeline=self.pipeline.name,
            queries=tuple(states),
            metrics_port=self.metrics.port,
            ui=ui,
            exit=outcome.name if outcome is not None else None,
            why=self.why,
            request=self.options.request,
            instance=self.options.instance,
        )
        try:
            progress.write_heartbeat(paths.heartbeat(self.options.root, self.pipeline.name), heartbeat)
        except OSError as error:  # a full disk must not end a working stream; the age of the old heartbeat shows it
            log.warning("heartbeat not written: %s", error)


def _supervise(
    board: Board, running: Sequence[queries.Running], spark: SparkSession, stop: threading.Event
) -> list[queries.Running]:
    """Observe every query until one ends or hangs, or the driver is to stop. Returns the ended or hanging ones."""
    ui = spark.sparkContext.uiWebUrl
    next_beat = 0.0
    while not stop.is_set():
        ended = [entry for entry in running if not entry.query.isActive]
        if ended or time.monotonic() >= next_beat:
            now_ms = time.time_ns() // 1_000_000
            board.watcher.observe(running, now_ms)
            board.beat(running, ui, None)
            next_beat = time.monotonic() + progress.HEARTBEAT_SECONDS
            hanging = _hanging(board, running, now_ms)
            if hanging:
                return hanging
        if ended:
            for entry in ended:
                log.error("%s ended: %s", entry.name, error_causes.reason_of(entry.query.exception()))
                log.info("%s, full error: %s", entry.name, entry.query.exception())
            return ended
        stop.wait(POLL_SECONDS)
    return []


def _hanging(board: Board, running: Sequence[queries.Running], now_ms: int) -> list[queries.Running]:
    """Return the queries that hang, or all if the JVM only collects garbage; the reason is logged and published."""
    garbage = board.watcher.garbage_seconds(now_ms)
    if garbage > GARBAGE_SECONDS:
        board.end = Exit.OUT_OF_MEMORY
        board.why = (
            f"garbage collection has used nearly all processor time for {garbage:.0f} s, and no batch progresses"
        )
        log.error("%s: %s", board.pipeline.name, board.why)
        return list(running)
    hanging = hung_batches.find(board.watcher, running, now_ms)
    for entry in hanging:
        batch = entry.counters.running_batch
        board.why = f"{entry.name} hangs: batch {batch} has made no progress for {hung_batches.STUCK_SECONDS:.0f} s"
        log.error("%s", board.why)
    return hanging


def _stop_all(running: Sequence[queries.Running], gate: writer.Gate, options: Options) -> bool:
    """Stop all queries, letting running batches finish within the grace period. Returns whether all did."""
    gate.closed.set()
    deadline = time.monotonic() + options.grace_seconds
    busy = [entry for entry in running if entry.query.isActive]
    while busy and time.monotonic() < deadline:
        busy = [entry for entry in busy if entry.query.isActive and not _between_batches(entry, options.root)]
        if busy:
            time.sleep(0.1)
    gate.ended.set()
    _stop_queries([entry.query for entry in running])
    return not busy


def _stop_queries(stopping: Sequence[StreamingQuery]) -> None:
    """Stop queries in parallel: an unresponsive one takes spark.sql.streaming.stopTimeout. `run` then ends the JVM."""

    def stop(query: StreamingQuery) -> None:
        with contextlib.suppress(Py4JError):
            query.stop()

    with ThreadPoolExecutor(max(1, len(stopping))) as pool:
        list(pool.map(stop, stopping))


def _end_session(spark: SparkSession) -> None:
    """Stop the session, and first the queries left by a start that failed at a later query."""
    with contextlib.suppress(Py4JError, OSError):  # the JVM may be gone
        _stop_queries(spark.streams.active)
        spark.stop()


def _between_batches(entry: queries.Running, root: str) -> bool:
    """Return whether nothing that could still finish is in progress: a new batch waits at the closed gate."""
    if entry.counters.running_batch is not None:
        return False
    newest = entry.counters.newest
    if newest is None or not entry.query.status["isTriggerActive"]:
        return True
    committed = newest_batch(entry.generation.paths(root).checkpoint)
    return committed is not None and committed >= newest["batch"]


def _classify(ended: Sequence[queries.Running]) -> Exit:
    """Return the exit code for the errors of ended queries; the most severe one counts."""
    return error_causes.class_of([str(entry.query.exception()) for entry in ended])


def _replaced_topic(ended: Sequence[queries.Running], groups: GroupCommitter, root: str) -> str:
    """Return the message about a topic of the ended queries that was deleted and recreated, or "" if none was.

    If Spark asks Kafka before the writer does, it sees only that offsets are gone, which by itself means lost records.
    """
    for entry in ended:
        known = topic_identity.read(entry.generation.paths(root))
        try:
            topic_identity.refuse(known, groups.topic_ids(known, wait_ms=writer.ANSWER_MS), entry.generation.pipeline)
        except HeadraceError as refusal:
            return str(refusal)
        except Py4JError as error:
            log.warning("%s: the ids of its topics are unknown: %s", entry.name, error_causes.reason_of(error))
    return ""


def end_of(fault: Exception, kills_before: int | None = None) -> tuple[Exit, str]:
    """Return exit code and reason of a fault that aborted `run`; `kills_before` is `session.oom_kills()` at the start.

    After its JVM ended, Python fails in whatever call came next ("calling o604.isActive"); the JVM's exit code gives the
    reason. 3 is that of -XX:+ExitOnOutOfMemoryError.
    """
    broken = isinstance(fault, (Py4JError, OSError)) and not isinstance(fault, Py4JJavaError)
    code = session.jvm_exit_code(JVM_END_SECONDS if broken else 0)
    if code == session.OUT_OF_MEMORY_CODE:
        return (
            Exit.OUT_OF_MEMORY,
            'the JVM ran out of memory and ended ("Terminating due to java.lang.OutOfMemoryError")',
        )
    if code == -signal.SIGKILL and kills_before is not None and (session.oom_kills() or 0) > kills_before:
        return Exit.OUT_OF_MEMORY, "the kernel killed the JVM for lack of memory (OOM kill)"
    if code is not None:
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        return Exit.TRANSIENT, f"the JVM {how}"
    return error_causes.class_of([_in_full(fault)]), error_causes.reason_of(fault)


def _in_full(fault: BaseException) -> str:
    """Return the type and text of a fault and of its causes."""
    causes = fault.__cause__ or fault.__context__
    return f"{type(fault).__name__}: {fault}" + (f"\n{_in_full(causes)}" if causes else "")
