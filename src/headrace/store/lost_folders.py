"""A query whose folder of checkpoints was lost: without it the query looks as if it had never run.

Its rows are in the sinks. A first generation would begin over them with the totals of what Kafka still holds.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.contract import names
from headrace.contract.exit_codes import Exit
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.store import archive_notes, generation, snapshot


def refuse(root: str, pipeline: Pipeline, asked: Collection[str]) -> None:
    """Raise HeadraceError(DAMAGED) if a declared query has run before, but no generation of it is left.

    What remains shows it: a snapshot of the query, or the archive of one of its topics, whose query has no generation either.
    `asked` are the queries for which an operator asked for a new generation.
    """
    for name, query in pipeline.queries.items():
        if name in asked or generation.current(root, pipeline.name, name) or generation.lost(root, pipeline.name, name):
            continue
        remains = _remains(root, pipeline.name, name, query.sources)
        if remains:
            raise HeadraceError(
                f"{names.query_name(pipeline.name, name)} has run before ({remains}), but its folder of checkpoints is gone. A "
                f"first generation would begin over its rows. Put the folder back, or say what becomes of the rows: headrace "
                f"stream start {pipeline.name} --new-generation all --rows keep; or --rows empty",
                exit_code=Exit.DAMAGED,
            )


def _remains(root: str, pipeline: str, query: str, topics: Collection[str]) -> str:
    if snapshot.listed(root, pipeline, query):
        return "it has a snapshot"
    for topic in topics:
        archive = names.archive_query(topic)
        if not generation.current(root, pipeline, archive) and archive_notes.newest(root, pipeline, archive):
            return f"the archive of {topic} has records"
    return ""
