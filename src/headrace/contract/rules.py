"""What the fields of a pipeline file must say together."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.contract.model import Pipeline


def faults(pipeline: Pipeline) -> Iterator[str]:
    """Yield one sentence for each fault, beginning with the dotted key, with the remedy in it."""
    yield from ()
