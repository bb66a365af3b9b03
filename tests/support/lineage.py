"""What lineage events say together: what is reachable from a dataset or job."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.operations.lineage.graph import Event


def graph(emitted: Iterable[Event]) -> set[tuple[str, str]]:
    """Return the edges dataset -> job and job -> dataset of some events. A dataset is `<namespace>/<name>`."""
    edges: set[tuple[str, str]] = set()
    for entry in emitted:
        job = entry["job"]["name"]
        edges |= {(f"{d['namespace']}/{d['name']}", job) for d in entry["inputs"]}
        edges |= {(job, f"{d['namespace']}/{d['name']}") for d in entry["outputs"]}
    return edges


def downstream(edges: Iterable[tuple[str, str]], start: str) -> set[str]:
    """Return everything that is reachable from a dataset or job."""
    forward: dict[str, set[str]] = {}
    for source, target in edges:
        forward.setdefault(source, set()).add(target)
    reached: set[str] = set()
    frontier = {start}
    while frontier:
        frontier = {target for node in frontier for target in forward.get(node, ())} - reached
        reached |= frontier
    return reached
