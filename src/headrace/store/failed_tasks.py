"""When each task of Airflow last failed for good: one file for each task, written when it fails and read by the exporter."""

from __future__ import annotations

import time

from headrace.store import paths, small_files


def remember(root: str, task: str) -> None:
    """Write that a task (`dag.task`) fails now."""
    small_files.write_json(f"{paths.failed_tasks(root)}/{task}.json", {"at_ms": time.time_ns() // 1_000_000})


def newest(root: str) -> dict[str, float]:
    """Return task -> when it last failed, in seconds since 1970."""
    folder = paths.failed_tasks(root)
    names = [name for name in small_files.list_names(folder) if name.endswith(".json")]
    read = {name.removesuffix(".json"): small_files.read_json(f"{folder}/{name}") for name in names}
    return {task: content["at_ms"] / 1000 for task, content in read.items() if content}
