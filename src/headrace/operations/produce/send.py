"""The sender: open loop, with every loss reported.

If paced, a record is sent at its planned time whether or not earlier ones are acknowledged. A sender that cannot keep up
reports its delay (`max_lateness`) instead of slowing down, which would hide it (coordinated omission). Otherwise records
are sent as fast as Kafka accepts them. In both cases every record ends as acknowledged or failed.
"""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headrace.access.bindings import KafkaBinding
from headrace.errors import HeadraceError
from headrace.operations.produce.record import Record
from headrace.operations.produce.summary import Report, SendProgress, SendSummary, TopicAccount, UndeliveredError

_POLL_EVERY = 500  # records between two polls for delivery reports
_QUEUE = 500_000  # records in librdkafka's queue
_QUEUE_KIB = 262_144
_ANSWER_SECONDS = 10.0
_REPORT_SECONDS = 0.1
_SHORT_SECONDS = 0.002  # poll has millisecond resolution: shorter waits use sleep
_POLL_SECONDS = 0.1


def send(
    records: Iterable[Record],
    binding: KafkaBinding,
    topics: Collection[str],
    *,
    paced: bool,
    total: int | None = None,
    report: Report | None = None,
    make_producer: Callable[[dict[str, object]], Any] = Producer,
) -> SendSummary:
    """Send records, which must be of `topics`, and wait until each is acknowledged by all in-sync replicas or has failed.

    `paced`: each record is sent at its `planned_at`, otherwise as fast as possible. `report` is called about ten times a
    second with `SendProgress`. Ctrl-C or SIGTERM (in the main thread) stops sending, waits for records in flight and marks the
    summary as interrupted; a second one gives up at once.

    Raises HeadraceError before anything is sent if Kafka does not answer or a topic is missing; UndeliveredError, with the
    summary, if a record failed; and any error of `records` (a HeadraceError with the number of records that are in Kafka),
    after all sent records have settled.
    """
    errors: list[KafkaError] = []
    producer = make_producer(producer_config(binding, paced=paced) | {"error_cb": errors.append})
    _require_topics(producer, binding, topics, errors)
    run = _Run(producer, {topic: TopicAccount(topic) for topic in topics}, total, report)
    with _stops_on_signal(run):
        try:
            with nullcontext() if paced else _garbage_collector_off():
                _send_all(records, run, paced=paced)
        except HeadraceError as fault:  # the file is unreadable from here on; earlier records are in flight
            run.settle()
            acknowledged = sum(account.acknowledged for account in run.accounts.values())
            sent = sum(account.sent for account in run.accounts.values())
            left = f"; left: {total - sent}" if total is not None else ""
            raise HeadraceError(f"{fault} (In Kafka before it: {acknowledged} records{left}.)") from fault
        finally:
            run.settle()
    summary = SendSummary(run.accounts, time.monotonic() - run.began, paced, run.stopped)
    if summary.failed:
        raise UndeliveredError(_undelivered(summary, binding), summary)
    return summary


def producer_config(binding: KafkaBinding, *, paced: bool) -> dict[str, str | int | bool]:
    """Return the librdkafka configuration: durable, in order, with the same partitioning as Java's producer."""
    return {
        **binding.client_config(),
        "client.id": "headrace-produce",
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "partitioner": "murmur2_random",  # librdkafka's default maps keys to other partitions than Java (and Spark)
        "linger.ms": 5 if paced else 100,
        "batch.size": 262_144,
        "queue.buffering.max.messages": _QUEUE,
        "queue.buffering.max.kbytes": _QUEUE_KIB,
        "message.max.bytes": 16_777_216,  # the topic decides what is too large, not this client
        "delivery.timeout.ms": 120_000,
    }


class _Run:
    """The state of one run: the accounts, and when to poll and report."""

    def __init__(
        self,
        producer: Any,  # noqa: ANN401
        accounts: dict[str, TopicAccount],
        total: int | None,
        report: Report | None,
    ) -> None:
        self.producer = producer
        self.accounts = accounts
        self.began = time.monotonic()
        self.stopped = False
        self._total = total
        self._report = report
        self._report_next = self.began

    def poll(self, seconds: float) -> None:
        """Serve delivery reports for at most `seconds`, and report progress if it is due."""
        self.producer.poll(seconds)
        now = time.monotonic()
        if self._report and now >= self._report_next:
            self._report_next = now + _REPORT_SECONDS
            self._report(self._progress())

    def wait_until(self, due: float) -> None:
        """Serve delivery reports until `due`, in seconds of the monotonic clock."""
        while not self.stopped and (wait := due - time.monotonic()) > 0:
            if wait < _SHORT_SECONDS:
                time.sleep(wait)
            else:
                self.poll(min(wait - _SHORT_SECONDS / 2, _POLL_SECONDS))

    def settle(self) -> None:
        """Wait until every record is acknowledged or failed; `delivery.timeout.ms` limits it."""
        while len(self.producer) > 0:
            self.producer.flush(_REPORT_SECONDS)
            self.poll(0)
        for account in self.accounts.values():
            # An interrupt can hit between sending and counting; the reports have counted.
            account.sent = max(account.sent, account.acknowledged + account.failed)
            for _ in range(account.sent - account.acknowledged - account.failed):
                account.refused("no delivery report was received")
        if self._report:
            self._report(self._progress())

    def _progress(self) -> SendProgress:
        accounts = self.accounts.values()
        return SendProgress(
            sum(account.sent for account in accounts),
            sum(account.acknowledged for account in accounts),
            sum(account.failed for account in accounts),
            self._total,
        )


def _send_all(records: Iterable[Record], run: _Run, *, paced: bool) -> None:
    # `produce_batch` was measured and costs the same: the time is spent in delivery reports (1 us) and in librdkafka.
    for number, record in enumerate(records):
        topic, key, value, planned_at, kind = record
        account = run.accounts[topic]
        if paced:
            run.wait_until(run.began + planned_at)
        if run.stopped:
            return
        if number % _POLL_EVERY == 0:
            run.poll(0)
        account.sent += 1
        account.bytes += len(key or b"") + len(value or b"")
        account.kinds[kind] += 1
        _hand_over(record, account, run)
        if paced:
            account.last_planned = planned_at
            account.max_lateness = max(account.max_lateness, time.monotonic() - run.began - planned_at)


@contextmanager
def _stops_on_signal(run: _Run) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `run.stopped`: an exception inside a delivery report would be lost in C."""

    def stop(*_: object) -> None:
        if run.stopped:
            raise KeyboardInterrupt
        run.stopped = True

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """Disable cycle collection: records are tuples of bytes without cycles, and it costs a fifth of the CPU time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _hand_over(record: Record, account: TopicAccount, run: _Run) -> None:
    """Pass a record to librdkafka. While its queue is full this waits, and the run reports the delay."""
    while True:
        try:
            run.producer.produce(record.topic, record.value, record.key, on_delivery=account.delivered)
        except BufferError:
            run.poll(_POLL_SECONDS)
            continue
        except KafkaException as error:  # such as a record larger than librdkafka's limit
            account.refused(str(error.args[0]))
        return


def _require_topics(producer: Any, binding: KafkaBinding, topics: Collection[str], errors: list[KafkaError]) -> None:  # noqa: ANN401
    try:
        known = producer.list_topics(timeout=_ANSWER_SECONDS).topics
    except KafkaException as error:
        where = f"Kafka at {binding.bootstrap_servers}"
        producer.poll(_POLL_SECONDS)  # error_cb runs in here
        if any(fault.code() == KafkaError._AUTHENTICATION for fault in errors):
            raise HeadraceError(
                f"{where} refuses user {binding.username!r}. Put the user's password into its kafka binding."
            ) from None
        reason = error.args[0].str()
        raise HeadraceError(
            f"{where} does not answer ({reason}). Check `headrace status`, then `headrace up`."
        ) from None
    absent = sorted(set(topics) - set(known))
    if absent:
        plural = "topics" if len(absent) > 1 else "topic"
        raise HeadraceError(
            f"Kafka at {binding.bootstrap_servers} has no {plural} {', '.join(absent)} "
            f"that user {binding.username!r} can see. Run `headrace provision`."
        )


def _undelivered(summary: SendSummary, binding: KafkaBinding) -> str:
    worst = max(summary.topics.values(), key=lambda account: account.failed)
    return (
        f"{summary.failed} of {summary.sent} records did not reach Kafka at {binding.bootstrap_servers} "
        f"({worst.failed} of topic {worst.topic}, first: {worst.first_error}). Correct that and send them again."
    )
