"""The reports of finite Spark runs: report.json in the run's folder, one type for each kind of job. The rules of `records` hold.

Durations are seconds, times milliseconds since 1970, days ISO. `ends` and the like map topic -> partition -> offset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from headrace.contract.job_files import Ends
from headrace.store.generation import Generation

Status = Literal["PASSED", "FAILED", "NOT_COMPARED", "EMPTY", "EXEMPT"]
Cell = str | int | float | bool | None
"""A value of a row in JSON: decimals and times are text."""


@dataclass(frozen=True)
class Behind:
    """A partition for which the archive lacks records that Kafka holds: [reached, end)."""

    topic: str
    partition: int
    reached: int
    end: int


@dataclass(frozen=True)
class ViewsReport:
    """The computed `days`, and how many rows each view holds of them (`rows`). `horizon` is the first day not held.

    `archive`: how far the archive was read. `repeats`: how many of its records are there twice, by topic. `behind`: what it
    lacked, so that later days could not be computed. `fewer`: day -> number of its records when it was computed before, and now:
    what the archive or today's contract no longer has is not in the views any more.
    """

    run: str = ""
    pipeline: str = ""
    days: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    horizon: str | None = None
    archive: Ends = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    behind: tuple[Behind, ...] = ()
    fewer: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Difference:
    """A row, or a range of a topic's records, that differs. None: unknown, or there is no such row.

    `due` is what the archive says, `speed` what the sink holds, `batch` what all records give, `late` what the records give
    that came too late. `rows` counts the records of a range. `batches` and `offsets` (`topic/partition` -> first and last)
    are those of the records behind it; `expected_batch` is the newest that should have written it. `written` is the writetime
    of the sink's row in microseconds, `sink_batch` and `by` the batch of that time, or who else wrote it.
    """

    what: str = ""
    key: dict[str, Cell] = field(default_factory=dict)
    batch: dict[str, Cell] | None = None
    due: dict[str, Cell] | None = None
    speed: dict[str, Cell] | None = None
    late: dict[str, Cell] | None = None
    batches: tuple[int, ...] = ()
    offsets: dict[str, tuple[int, int]] = field(default_factory=dict)
    rows: int | None = None
    expected_batch: int | None = None
    sink_batch: int | None = None
    written: int | None = None
    by: str | None = None


@dataclass
class Account:
    """The comparison of one query and sink, and its differences. Reconciliation fills it step by step.

    `compared` to `differing` count rows, of which `differences` names the first. `blocked`: a comparison was due but
    impossible. `exempt`: this kind of sink is never compared. `note` gives the reason for both.
    """

    query: str = ""
    sink: str = ""
    kind: str = ""
    generation: int = 0
    cut: int = -1
    closed_ms: int | None = None
    compared: int = 0
    late: int = 0
    pending: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    note: str = ""
    blocked: bool = False
    exempt: bool = False
    status: Status = "EMPTY"

    def block(self, why: str) -> None:
        """Record why the comparison was impossible."""
        self.note, self.blocked = why, True

    def judge(self) -> None:
        """Set the status: FAILED, PASSED, NOT_COMPARED (it was impossible), EXEMPT or EMPTY (there is nothing to compare)."""
        if self.differing:
            self.status = "FAILED"
        elif self.compared:
            self.status = "PASSED"
        else:
            self.status = "NOT_COMPARED" if self.blocked else "EXEMPT" if self.exempt else "EMPTY"


@dataclass(frozen=True)
class ReconcileReport:
    """One account for each query and sink, and one for the archive of each topic. `differing` and `pending` are sums."""

    run: str = ""
    pipeline: str = ""
    at_ms: int = 0
    differing: int = 0
    pending: int = 0
    accounts: tuple[Account, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class DrillReport:
    """The batch that ran on a restored snapshot. `ok`: it ran, and nothing of what was `compared` differs."""

    query: str = ""
    snapshot: str = ""
    generation: int = 0
    batch: int = 0
    rows_in: int = 0
    rows_out: int | None = None
    watermark_ms: int = 0
    state_rows: int = 0
    compared: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    ok: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class FailingRecord:
    """A record on which a transform fails."""

    topic: str
    partition: int
    offset: int
    error: str


@dataclass(frozen=True)
class FindReport:
    """The search in a batch of `offsets`: the `records` that fail alone, and the error of all `together` (None: none).

    `complete` is False if the search ended at its limit. `runs` counts the Spark jobs.
    """

    query: str = ""
    batch: int = 0
    offsets: int = 0
    runs: int = 0
    records: tuple[FailingRecord, ...] = ()
    together: str | None = None
    complete: bool = True
    seconds: float = 0.0


@dataclass(frozen=True)
class RebuildReport:
    """A rebuilt query: its future manifest (`generation`), and how many archived records went through how many batches."""

    generation: Generation
    pipeline: str = ""
    query: str = ""
    batches: int = 0
    records: int = 0
    ends: Ends = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class TableUpkeep:
    """The upkeep of one table."""

    orphans_removed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class UpkeepReport:
    """The upkeep of every table of a pipeline, by name."""

    pipeline: str = ""
    tables: dict[str, TableUpkeep] = field(default_factory=dict)
