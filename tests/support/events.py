"""Events for the tests: an endless seeded stream, and a feeder that sends it in small bursts."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from headrace.access.bindings import read_kafka
from headrace.errors import HeadraceError
from headrace.operations.produce.generate import generate
from headrace.operations.produce.mix import Mix
from headrace.operations.produce.record import Record
from headrace.operations.produce.send import send
from headrace.operations.produce.summary import UndeliveredError

ACCIDENTS: dict[str, Any] = {
    "since": timedelta(0),
    "late": 0.05,
    "delayed": 0.05,
    "duplicates": 0.03,
    "malformed": 0.03,
    "unknown_users": 0.05,
}


def stream(seed: int, events: dict[str, int], hours: float, suffix: str = "", **options: Any) -> Iterator[Record]:
    """Yield the records of a mix whose event times span the last `hours`; topics get the suffix."""
    mix = Mix(seed=seed, events=events, duration=hours * 3600, **(ACCIDENTS | options))
    start = datetime.now(UTC) - timedelta(hours=hours)
    for record in generate(mix, start):
        yield record._replace(topic=record.topic + suffix)


class Feeder:
    """Sends a stream in small bursts from a separate thread, until it is told to stop.

    It waits if Kafka does not answer: on a busy machine Kafka can be unavailable for longer than a client's patience.
    """

    def __init__(
        self,
        admin: Path,
        records: Iterable[Record],
        *,
        burst: int = 10,
        pause_seconds: float = 0.3,
    ) -> None:
        self._sent = 0
        self._binding = read_kafka(admin)
        self._records = iter(records)
        self._burst, self._pause = burst, pause_seconds
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def sent(self) -> int:
        """Return the number of acknowledged records. Raises any error of the feeder, so that no test waits in vain."""
        if self._error:
            raise self._error
        return self._sent

    def stop(self) -> None:
        """Stop feeding. Raises any error of the feeder."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._error:
            raise self._error

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send nothing inside the block."""
        with self._turn:
            yield

    def _send(self, burst: list[Record]) -> None:
        while True:
            try:
                send(burst, self._binding, {record.topic for record in burst}, paced=False)
                return
            except UndeliveredError:
                raise
            except HeadraceError:  # Kafka did not answer, so nothing was sent
                if self._stop.is_set():
                    raise

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                with self._turn:
                    burst = list(islice(self._records, self._burst))
                    assert burst, "the stream of events is too short for this test"
                    self._send(burst)
                    self._sent += len(burst)
        except BaseException as error:  # raised again by stop()
            self._error = error
