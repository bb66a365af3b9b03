"""Compare a stage with the live table, and plan the refresh (ADR 48). Nothing is written to the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.dimensions import compare, live
from headrace.operations.dimensions.documents import Staged
from headrace.operations.dimensions.kept import history, reasons_for_approval
from headrace.operations.dimensions.snapshot import applied, begun, settings
from headrace.operations.dimensions.stage import read_parquet, write_parquet
from headrace.operations.plans import Item, Plan


@dataclass(frozen=True)
class DirectoryDifference:
    """What a refresh would write. `newer` rows were written after the extract and stay unchanged.

    `diff` is the file with the rows, `sha256` its hash; `after` is the version that was applied when it was computed, `begun` the
    one that was begun last. `reasons` say why it needs approval; empty if it needs none.
    """

    COMPUTED: ClassVar = ("needs_approval",)
    version: str
    extract_ms: int
    diff: str
    sha256: str
    after: str
    live_rows: int
    stage_rows: int
    inserts: int
    updates: int
    deletes: int
    unchanged: int
    newer: int
    delete_percent: float
    max_delete_percent: int
    reasons: tuple[str, ...] = ()
    begun: str = ""

    @property
    def needs_approval(self) -> bool:
        """Return whether the refresh needs approval."""
        return bool(self.reasons)

    @property
    def text(self) -> str:
        """Return the difference as text for the approver."""
        return (
            f"Version {self.version}: {self.inserts} new, {self.updates} changed, {self.deletes} deleted "
            f"({self.delete_percent} % of {self.live_rows}; up to {self.max_delete_percent} % need no approval), "
            f"{self.unchanged} unchanged, {self.newer} kept because they are newer."
            + (f" It needs approval: {'; '.join(self.reasons)}." if self.reasons else "")
        )

    def plan(self, subject: str) -> Plan:
        """Return the plan of the refresh of a dimension (`subject`) by this difference.

        Its id follows from the rows to write and the version before. The version that is applied is a note: an extract from a
        database has a new one each time.
        """
        rows = f"{self.inserts} new, {self.updates} changed and {self.deletes} deleted rows"
        item = Item("write", rows, f"hash {self.sha256[:12]}, after version {self.after or 'none'}")
        return Plan("refresh", subject, (item,), notes=(self.text,))


def diff(
    root: str,
    bindings: Path,
    pipeline: Pipeline,
    dimension: str,
    staged: Staged,
    name: str = "difference.parquet",
) -> DirectoryDifference:
    """Compare a stage with the live table and write the difference next to the stage, into a file called `name`.

    Raises HeadraceError if a key is null or duplicated in the stage (the stage's suite reports which).
    """
    refresh = settings(pipeline, dimension)
    with compare.opened() as db:
        compare.load_stage(db, pipeline, dimension, read_parquet(staged.stage))
        if compare.has_wrong_keys(db, pipeline, dimension):
            raise HeadraceError(
                f"{staged.place} has a key that is duplicated or null. Correct the extract and drop it again."
            )
        compare.load_live(db, pipeline, dimension, live.read(bindings, pipeline, dimension))
        counts, table = compare.changes(db, pipeline, dimension, staged.extract_ms * 1000)
    live_rows, stage_rows, deletes = counts.live_rows, counts.stage_rows, counts.deletes
    path = staged.stage.rpartition("/")[0] + f"/{name}"
    percent = round(100 * deletes / live_rows, 2) if live_rows else 0.0
    return DirectoryDifference(
        version=staged.version,
        extract_ms=staged.extract_ms,
        diff=path,
        sha256=write_parquet(path, table),
        after=applied(root, pipeline.name, dimension).version,
        delete_percent=percent,
        max_delete_percent=refresh.max_delete_percent,
        reasons=tuple(
            reasons_for_approval(refresh, history(root, pipeline.name, dimension), live_rows, stage_rows, deletes)
        ),
        begun=begun(root, pipeline.name, dimension).version,
        **asdict(counts),
    )
