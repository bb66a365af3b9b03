"""The position up to which a sink is checked. It moves only past checked rows, so no row between two checks is left out.

Each sink has one file, written at the end of a check.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.store import ledger, paths, records, small_files


@dataclass(frozen=True)
class Tally:
    """Sums over a generation's ledger up to and including a batch: rows that the query read and wrote since it began."""

    generation: int = 0
    last: int = -1
    rows_in: int = 0
    rows_out: int = 0


@dataclass(frozen=True)
class Position:
    """Where the next check of a sink begins: after batch `last` of `generation`, and at `cursor` of its topic.

    `cursor` is partition -> next offset. `until_ms` is the end of the newest window (milliseconds since 1970). `token` is of a
    table that is larger than one check.
    """

    generation: int = records.optional(0)
    last: int = records.optional(-1)
    cursor: dict[str, int] | None = records.optional()
    until_ms: int | None = records.optional()
    token: int | None = records.optional()
    sums: Tally | None = records.optional()


def read(root: str, sink: str) -> Position:
    """Return the position of a sink; the beginning for a sink that was never checked."""
    stored = records.read(Position, paths.quality_position(root, sink))
    if stored is not None:
        return stored
    latest = small_files.read_json(paths.quality_latest(root, sink))  # written by a release without positions
    window = latest["window"] if latest else {}
    known = {name: window[name] for name in ("generation", "last", "until_ms") if name in window}
    return records.from_json(Position, known)


def write(root: str, sink: str, position: Position) -> None:
    """Move the position to the end of a check."""
    records.write(paths.quality_position(root, sink), position)


def tally(folder: str, generation: int, before: Tally | None, newest: int) -> Tally:
    """Return the sums of a generation's ledger up to and including batch `newest`, continued from the last check.

    A restored generation has copies of its predecessor's records. They are counted too, because its rows include those batches.
    """
    known = before if before and before.generation == generation else Tally(generation)
    last, rows_in, rows_out = known.last, known.rows_in, known.rows_out
    for record in ledger.stream(folder, known.last + 1):
        if record["batch"] > newest:
            break
        last, rows_in, rows_out = record["batch"], rows_in + record["rows_in"], rows_out + record["rows_out"]
    return Tally(generation, last, rows_in, rows_out)
