"""What the supervisor reports and remembers of a pipeline: supervision.json, next to its checkpoints.

The supervisor is the file's only writer (ADR 0012); the Streams page, the command line and the DAGs read it. The fields are
those of `Supervision`; all times are milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.drivers.interface import Driver
from headrace.store import paths, records

Verdict = Literal[
    "HEALTHY", "IDLE", "LAGGING", "TOO_MANY_KEYS", "STALLED", "CRASH_LOOP", "MISSING", "DUPLICATE", "UNKNOWN"
]
Kind = Literal["NOTHING", "START", "FENCE_AND_START", "RESTART", "STOP", "GIVE_UP"]

GRAVITY: tuple[Verdict, ...] = (
    "IDLE",
    "HEALTHY",
    "LAGGING",
    "TOO_MANY_KEYS",
    "STALLED",
    "MISSING",
    "CRASH_LOOP",
    "DUPLICATE",
    "UNKNOWN",
)
"""From the lightest to the gravest: a pipeline is what its gravest query is."""

FAULTS = frozenset(GRAVITY[GRAVITY.index("STALLED") :])
"""Verdicts under which a pipeline does not do what is wanted of it."""

WORKING = frozenset(GRAVITY) - FAULTS
"""Verdicts under which a driver's batches move, or have nothing to do."""


@dataclass(frozen=True)
class Action:
    """What one pass over a pipeline led to."""

    kind: Kind = "NOTHING"
    reason: str = ""
    at_ms: int = 0


@dataclass(frozen=True)
class Mark:
    """Where a query's checkpoint stood, and since when it has been behind Kafka there (0: it is not behind)."""

    generation: int | None = None
    batch: int | None = None
    behind_since_ms: int = 0


@dataclass(frozen=True)
class Memory:
    """What a pass must know of those before it.

    `driver` is the identity of the driver that ran last, `instance` (JSON key `life`) its instance, `request` the desired
    state under which it was first observed. `same_end` is the class (an `Exit` name) of the newest end, `same_ends` how many
    ends in a row had it. `first_beat_ms` is when its heartbeat was first observed, `moved_ms` when any query was last
    observed to have committed a batch, `calm_since_ms` since when there has been no fault. A fault that leads to a fence is
    a `suspect` first: two passes must observe it. `gave_up_ms` keeps a given-up pipeline from a second alarm. `held` says,
    for each query behind an open transaction, where that begins and since when it was observed there.
    """

    driver: str = ""
    started_ms: int = 0
    first_beat_ms: int = 0
    moved_ms: int = 0
    calm_since_ms: int = 0
    marks: dict[str, Mark] = field(default_factory=dict)
    restarts: tuple[int, ...] = ()
    next_start_ms: int = 0
    gave_up_ms: int = 0
    suspect: str = ""
    suspect_since_ms: int = 0
    last_action: Action | None = None
    instance: str = records.key("life", "")
    request: str = ""
    same_end: str = ""
    same_ends: int = 0
    held: dict[str, tuple[str, int]] = field(default_factory=dict)

    def following(self, driver: Driver, request: str) -> Memory:
        """Return the memory with `driver` as the one that ran last, first observed under the desired state `request`."""
        return replace(
            self,
            driver=driver.identity,
            instance=driver.instance,
            request=request,
            started_ms=int(driver.started * 1000),
            first_beat_ms=0,
        )

    def restarts_since(self, desired: DesiredState) -> tuple[int, ...]:
        """Return the restarts that count: those after the operator last reset the budget."""
        return tuple(at for at in self.restarts if at > desired.budget_reset_ms)


@dataclass(frozen=True)
class DriverSummary:
    """The (first) driver that runs."""

    identity: str = ""
    where: str = ""
    started_ms: int = 0
    pending: bool = False
    release: str = ""


@dataclass(frozen=True)
class QueryVerdict:
    """The verdict on one query, `<pipeline>.<query>`. Generation and batch are the checkpoint's; lag is in offsets.

    `lag` is measured against the ends of Kafka; None: not known.
    """

    query: str = ""
    verdict: Verdict = "UNKNOWN"
    reason: str = ""
    generation: int | None = None
    batch: int | None = None
    lag: int | None = None


@dataclass(frozen=True)
class Supervision:
    """supervision.json: the result of one pass.

    `at_ms`: when it was written; older than two intervals means that no supervisor runs. `verdict` and `reason` are those of
    the gravest query. `runbook` is a page below the project, "" for HEALTHY and IDLE. `wanted*` repeat the desired state.
    `action` is that of this pass, `last_action` the newest that was not NOTHING. `restarts` are the restarts that count
    against the budget (times), `restarts_left` what is left of it. `next_start_ms` is when the next restart is due, else 0.
    Only the supervisor reads `memory`.
    """

    pipeline: str = ""
    at_ms: int = 0
    verdict: Verdict = "UNKNOWN"
    reason: str = ""
    runbook: str = ""
    wanted: str = ""
    wanted_reason: str = ""
    wanted_by: str = ""
    wanted_at_ms: int = 0
    driver: DriverSummary | None = None
    queries: tuple[QueryVerdict, ...] = ()
    action: Action = field(default_factory=Action)
    last_action: Action | None = None
    restarts_left: int | None = None
    restarts: tuple[int, ...] = ()
    next_start_ms: int = 0
    memory: Memory = field(default_factory=Memory)

    def query(self, name: str) -> QueryVerdict | None:
        """Return the verdict on a query by its full name, None if this pass did not judge it."""
        return next((query for query in self.queries if query.query == name), None)


def read(root: str, pipeline: str) -> Supervision | None:
    """Return the newest supervision of a pipeline, None before the first pass. Raises HeadraceError on a broken file.

    A verdict that only a newer release knows is read as UNKNOWN.
    """
    supervision = records.read(Supervision, paths.supervision(root, pipeline))
    if supervision is None or supervision.verdict in GRAVITY:
        return supervision
    return replace(
        supervision, verdict="UNKNOWN", reason=f"{supervision.verdict} (of another release): {supervision.reason}"
    )


def write(root: str, pipeline: str, supervision: Supervision) -> None:
    """Replace the supervision of a pipeline. For the supervisor only."""
    records.write(paths.supervision(root, pipeline), supervision)


def memory(root: str, pipeline: str) -> Memory:
    """Return what the supervisor remembers of a pipeline; nothing before the first pass."""
    supervision = read(root, pipeline)
    return supervision.memory if supervision else Memory()


def runbook(verdict: Verdict) -> str:
    """Return the page that says what to do about a verdict, below the project's root; "" where nothing is to be done."""
    return "" if verdict in {"HEALTHY", "IDLE"} else f"docs/runbooks/{verdict}.md"
