"""How far a sink is checked. It moves only past checked rows, so nothing between two checks is left out.

One file a sink, written at the end of a check. Keys: generation, last (batch), cursor {partition: next offset} of a
topic, until_ms (end of the newest window), token (of a table that is larger than one check), sums (see `Tally`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.store import ledger, paths, small_files


@dataclass(frozen=True)
class Tally:
    """Sums over a generation's ledger up to and with a batch: what the query took and wrote since it began."""

    generation: int = 0
    last: int = -1
    rows_in: int = 0
    rows_out: int = 0


def read(root: str, sink: str) -> dict[str, Any]:
    """Return the position of a sink; empty for one that was never checked."""
    found: dict[str, Any] | None = small_files.read_json(paths.quality_position(root, sink))
    if found is not None:
        return found
    latest = small_files.read_json(paths.quality_latest(root, sink))  # of a release that had no positions
    window = latest["window"] if latest else {}
    return {name: window[name] for name in ("generation", "last", "until_ms") if name in window}


def write(root: str, sink: str, before: Mapping[str, Any], reached: Mapping[str, Any]) -> None:
    """Move the position to what a check reached."""
    small_files.write_json(paths.quality_position(root, sink), {**before, **reached})


def tally(folder: str, generation: int, before: Mapping[str, Any] | None, newest: int) -> Tally:
    """Return the sums of a generation's ledger up to and with batch `newest`, going on from those of the last check.

    A generation that was restored has copies of its forerunner's records: they are summed too, its rows come from them.
    """
    known = Tally(**before) if before and before.get("generation") == generation else Tally(generation)
    last, rows_in, rows_out = known.last, known.rows_in, known.rows_out
    for record in ledger.stream(folder, known.last + 1):
        if record["batch"] > newest:
            break
        last, rows_in, rows_out = record["batch"], rows_in + record["rows_in"], rows_out + record["rows_out"]
    return Tally(generation, last, rows_in, rows_out)


def as_json(sums: Tally) -> dict[str, int]:
    """Return the sums as plain JSON values."""
    return asdict(sums)
