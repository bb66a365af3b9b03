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
    """Raise HeadraceError(DAMAGED) if a declared query has run before, but no generation of it is left (`folder_gone`).

    `asked` are the queries for which an operator asked for a new generation.
    """
    for query in pipeline.queries:
        gone = "" if query in asked else folder_gone(root, pipeline, query)
        if gone:
            raise HeadraceError(f"{names.query_name(pipeline.name, query)} {gone}", exit_code=Exit.DAMAGED)


def folder_gone(root: str, pipeline: Pipeline, query: str) -> str:
    """Return what is wrong, and the remedy, if a declared query has run before and no generation of it is left. Else "".

    What remains shows it: a snapshot of the query, or the archive of one of its topics, whose query has no generation either.
    Always "" for an archive query: its table says itself which records it has (`store.archive_notes`).
    """
    declared = pipeline.queries.get(query)
    begun = generation.current(root, pipeline.name, query) or generation.lost(root, pipeline.name, query)
    remains = "" if declared is None or begun else _remains(root, pipeline.name, query, declared.sources)
    if not remains:
        return ""
    return (
        f"has run before ({remains}), but its folder of checkpoints is gone. A first generation would begin over its rows. Put "
        f"the folder back, or say what becomes of the rows: headrace stream start {pipeline.name} --new-generation all --rows "
        f"keep; or --rows empty"
    )


def _remains(root: str, pipeline: str, query: str, topics: Collection[str]) -> str:
    if snapshot.listed(root, pipeline, query):
        return "it has a snapshot"
    for topic in topics:
        archive = names.archive_query(topic)
        if not generation.current(root, pipeline, archive) and archive_notes.newest(root, pipeline, archive):
            return f"the archive of {topic} has records"
    return ""
