"""The account of what was sent and what Kafka acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from headrace.errors import HeadraceError
from headrace.operations.produce.rows import OddRows


class SendProgress(NamedTuple):
    """The progress of a run; `total` is None if unknown."""

    sent: int
    acknowledged: int
    failed: int
    total: int | None


Report = Callable[[SendProgress], None]


@dataclass
class TopicAccount:
    """One topic's account. `delivered` is the delivery callback: it runs once per record, so it must be fast."""

    topic: str
    sent: int = 0
    acknowledged: int = 0
    failed: int = 0
    bytes: int = 0  # keys and values
    kinds: Counter[str] = field(default_factory=Counter)
    first_offsets: dict[int, int] = field(default_factory=dict)  # by partition, of acknowledged records
    last_offsets: dict[int, int] = field(default_factory=dict)
    first_error: str | None = None
    last_planned: float = 0.0  # seconds after the start of the plan
    max_lateness: float = 0.0  # maximum delay of a record after its planned time, in seconds

    def delivered(self, error: Any, message: Any) -> None:  # noqa: ANN401 - confluent_kafka has no types
        """Book one delivery report of librdkafka. Offsets of a partition arrive in ascending order (idempotence)."""
        if error is not None:
            self.refused(str(error))
            return
        self.acknowledged += 1
        partition, offset = message.partition(), message.offset()
        self.last_offsets[partition] = offset
        self.first_offsets.setdefault(partition, offset)

    def refused(self, reason: str) -> None:
        """Book a record that did not reach the topic."""
        self.failed += 1
        self.first_error = self.first_error or reason


@dataclass(frozen=True)
class AcknowledgedRange:
    """The first and the last offset of a partition, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class TopicResult:
    """The result of one topic: rates in records per second, `offsets` by partition."""

    sent: int
    acknowledged: int
    failed: int
    first_error: str | None
    bytes: int
    kinds: dict[str, int]
    offsets: dict[str, AcknowledgedRange]
    planned_rate: float | None
    achieved_rate: float | None
    max_lateness_s: float


@dataclass(frozen=True)
class SendResult:
    """The result of a run as `headrace produce --json` prints it: rates in records per second, times in seconds."""

    sent: int
    acknowledged: int
    failed: int
    elapsed_s: float
    achieved_rate: float | None
    max_lateness_s: float
    interrupted: bool
    refused: int
    left: int
    named: tuple[str, ...]
    topics: dict[str, TopicResult]


@dataclass
class SendSummary:
    """The result of a run. Offset ranges are inclusive; records of other producers can lie in between."""

    topics: dict[str, TopicAccount]
    elapsed: float  # seconds until the last acknowledgement
    paced: bool
    interrupted: bool = False
    odd: OddRows = field(default_factory=OddRows)  # malformed rows of a file

    @property
    def sent(self) -> int:
        """Return the number of records sent, over all topics."""
        return sum(account.sent for account in self.topics.values())

    @property
    def acknowledged(self) -> int:
        """Return the number of records that are certainly in Kafka."""
        return sum(account.acknowledged for account in self.topics.values())

    @property
    def failed(self) -> int:
        """Return the number of records that were refused or given up."""
        return sum(account.failed for account in self.topics.values())

    @property
    def max_lateness(self) -> float:
        """Return the maximum delay behind the plan, in seconds."""
        return max((account.max_lateness for account in self.topics.values()), default=0.0)

    def result(self) -> SendResult:
        """Return the summary as a document."""
        return SendResult(
            sent=self.sent,
            acknowledged=self.acknowledged,
            failed=self.failed,
            elapsed_s=round(self.elapsed, 3),
            achieved_rate=_rate(self.acknowledged, self.elapsed),
            max_lateness_s=round(self.max_lateness, 3),
            interrupted=self.interrupted,
            refused=self.odd.refused,
            left=self.odd.left,
            named=tuple(self.odd.named),
            topics={topic: self._topic(account) for topic, account in sorted(self.topics.items())},
        )

    def _topic(self, account: TopicAccount) -> TopicResult:
        return TopicResult(
            sent=account.sent,
            acknowledged=account.acknowledged,
            failed=account.failed,
            first_error=account.first_error,
            bytes=account.bytes,
            kinds=dict(sorted(account.kinds.items())),
            offsets={
                str(partition): AcknowledgedRange(account.first_offsets[partition], last)
                for partition, last in sorted(account.last_offsets.items())
            },
            planned_rate=_rate(account.sent, account.last_planned) if self.paced else None,
            achieved_rate=_rate(account.acknowledged, self.elapsed),
            max_lateness_s=round(account.max_lateness, 3),
        )


class UndeliveredError(HeadraceError):
    """Not every record reached Kafka. `summary` has the details."""

    def __init__(self, message: str, summary: SendSummary) -> None:
        super().__init__(message)
        self.summary = summary


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 1) if seconds > 0 else None
