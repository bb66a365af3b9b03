"""The position up to which a sink is checked. It moves only past checked rows, so no row between two checks is left out.

Each sink has one file, written at the end of a check. Keys: generation, last (batch), cursor {partition: next offset} of a
topic, until_ms (end of the newest window), token (of a table that is larger than one check), sums (see `Tally`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.store import ledger, paths, small_files


@dataclass(frozen=True)
class Tally:
    """Sums over a generation's ledger up to and including a batch: rows that the query read and wrote since it began."""

    generation: int = 0
    last: int = -1
    rows_in: int = 0
    rows_out: int = 0


def read(root: str, sink: str) -> dict[str, Any]:
    """Return the position of a sink; empty for a sink that was never checked."""
    stored: dict[str, Any] | None = small_files.read_json(paths.quality_position(root, sink))
    if stored is not None:
        return stored
    latest = small_files.read_json(paths.quality_latest(root, sink))  # written by a release without positions
    window = latest["window"] if latest else {}
    return {name: window[name] for name in ("generation", "last", "until_ms") if name in window}


def write(root: str, sink: str, before: Mapping[str, Any], reached: Mapping[str, Any]) -> None:
    """Move the position to the end of a check."""
    small_files.write_json(paths.quality_position(root, sink), {**before, **reached})


def tally(folder: str, generation: int, before: Mapping[str, Any] | None, newest: int) -> Tally:
    """Return the sums of a generation's ledger up to and including batch `newest`, continued from the last check.

    A restored generation has copies of its predecessor's records. They are counted too, because its rows include those batches.
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
