"""The restore drill as operators order it: a finite Spark run (`streaming.drill`), whose report stays with the snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from headrace.contract import names, paths, storage
from headrace.contract import snapshot as kept
from headrace.errors import HeadraceError
from headrace.operations import batch_runs
from headrace.operations.deployment import Deployment


def give(root: str, pipeline: str, query: str, snapshot: str = "", run: str | None = None) -> dict[str, Any]:
    """Write the order of a drill of one snapshot (default: the newest) and return it as `batch_runs.give` does.

    Raises HeadraceError where there is no snapshot.
    """
    name = names.query_name(pipeline, query)
    known = [each.id for each in kept.listed(root, pipeline, query) if snapshot in ("", each.id)]
    if not known:
        raise HeadraceError(f"{name} has no snapshot {snapshot}: take one with `headrace checkpoint snapshot {name}`.")
    return batch_runs.give(root, "drill", pipeline, {"query": query, "snapshot": known[-1]}, run)


def judge(root: str, pipeline: str, run: str) -> dict[str, Any]:
    """Put the report of a drill beside its snapshot and return it. Raises HeadraceError where the drill failed."""
    report = batch_runs.result(root, pipeline, run)
    query = str(report["query"]).removeprefix(names.query_name(pipeline, ""))
    drilled = report | {"at_ms": time.time_ns() // 1_000_000}
    storage.write_json(paths.snapshot_drill(root, pipeline, query, report["snapshot"]), drilled)
    if not report["ok"]:
        raise HeadraceError(
            f"The drill of snapshot {report['snapshot']} of {report['query']} failed: {'; '.join(report['differences'])}. "
            "Do not rely on it: take a new one, drill that, and look at docs/runbooks/CheckpointStateDamaged.md."
        )
    return drilled


def drill(
    deployment: Deployment,
    pipeline: str,
    query: str,
    snapshot: str = "",
    report: Callable[[str, float | None], None] | None = None,
) -> dict[str, Any]:
    """Give the order, carry it out on this machine, and judge it."""
    given = give(deployment.root, pipeline, query, snapshot)
    batch_runs.execute(deployment, given, report)
    return judge(deployment.root, pipeline, given["run"])
