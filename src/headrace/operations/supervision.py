"""What the supervisor says and remembers of a pipeline: `supervision.json` beside its checkpoints, and its shape.

The supervisor is the file's only writer (ADR 0012); the Streams page, the command line and the DAGs read it.

    pipeline            name
    at_ms               when this was written; older than two intervals: nobody supervises
    verdict, reason     of the pipeline: the gravest of its queries, in words
    runbook             "docs/runbooks/STALLED.md", or "" for HEALTHY and IDLE
    wanted, wanted_reason, wanted_by, wanted_at_ms      the operator's wish when this was written
    driver              null, or {identity, where, started_ms, pending, release} of the (first) living driver
    queries             [{query: "<pipeline>.<query>", verdict, reason, generation, batch, lag}]; generation and newest
                        committed batch are the checkpoint's, lag is in offsets against Kafka's ends (null: not known)
    action              {kind: NOTHING | START | FENCE_AND_START | RESTART | STOP | GIVE_UP, reason, at_ms} of this look
    last_action         the newest action that was not NOTHING, or null
    restarts_left       of the budget; restarts: [ms ...] those that are counted now
    next_start_ms       when the next restart is due while a driver is missed, else 0
    memory              what only the supervisor reads: the fields of `Memory`

All times are milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from headrace.contract import paths, storage
from headrace.contract.records import known_fields
from headrace.operations.intent import Intent

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
    """What a look at a pipeline led to."""

    kind: Kind
    reason: str
    at_ms: int


@dataclass(frozen=True)
class Mark:
    """Where a query's checkpoint stood, and since when it has been behind Kafka there (0: it is not behind)."""

    generation: int | None
    batch: int | None
    behind_since_ms: int = 0


@dataclass(frozen=True)
class Memory:
    """What one look must know of those before it.

    `driver` is the identity of the driver that lived last, `life` its life, `request` the wish under which it was first
    seen; `same_end` is the class (an `Exit` name) of the newest end, `same_ends` how many in a row had it. `first_beat_ms`
    is when its heartbeat was first seen, `moved_ms` when any query was last seen to have committed a batch, `calm_since_ms`
    since when it has had no fault. A fault that ends in a fence is a `suspect` first: it must be seen twice. `gave_up_ms`
    keeps a given-up pipeline from a second alarm. `held` has, for each query behind an open transaction, where that begins
    and since when it was seen there.
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
    life: str = ""
    request: str = ""
    same_end: str = ""
    same_ends: int = 0
    held: dict[str, tuple[str, int]] = field(default_factory=dict)

    def restarts_since(self, wish: Intent) -> tuple[int, ...]:
        """Return the restarts that count: those after the operator last gave the budget back."""
        return tuple(at for at in self.restarts if at > wish.budget_reset_ms)


def read(root: str, pipeline: str) -> dict[str, Any] | None:
    """Return the newest supervision of a pipeline, or None if no supervisor has looked at it yet."""
    found: dict[str, Any] | None = storage.read_json(paths.supervision(root, pipeline))
    return found


def write(root: str, pipeline: str, told: dict[str, Any]) -> None:
    """Replace the supervision of a pipeline. For the supervisor only."""
    storage.write_json(paths.supervision(root, pipeline), told)


def memory_of(told: dict[str, Any] | None) -> Memory:
    """Return the memory in a supervision; an empty one where there is none."""
    kept = dict((told or {}).get("memory") or {})
    memory = known_fields(Memory, kept)
    last = kept.get("last_action")
    return replace(
        memory,
        marks={query: known_fields(Mark, mark) for query, mark in (kept.get("marks") or {}).items()},
        restarts=tuple(kept.get("restarts") or ()),
        held={query: (str(at), int(since)) for query, (at, since) in (kept.get("held") or {}).items()},
        last_action=known_fields(Action, last) if last else None,
    )


def memory_json(memory: Memory) -> dict[str, Any]:
    """Return the memory as plain JSON values."""
    return asdict(memory) | {"restarts": list(memory.restarts)}


def runbook(verdict: Verdict) -> str:
    """Return the page that says what to do about a verdict, below the project's root; "" where nothing is to be done."""
    return "" if verdict in {"HEALTHY", "IDLE"} else f"docs/runbooks/{verdict}.md"
