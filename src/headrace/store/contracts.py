"""The contracts under which batches took their records: the ledger names them, and one file holds each.

A contract that becomes narrower (a column becomes required, a skew shorter) does not begin a new generation, and the archive
keeps no version with its rows. So only this says which records an earlier batch accepted.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from headrace.contract import fingerprint
from headrace.contract.model import Pipeline, Source
from headrace.store import paths, small_files


def digest(pipeline: Pipeline, query: str) -> str:
    """Return the name of the contract under which a query takes its records."""
    return fingerprint.digest(fingerprint.accepting(pipeline, pipeline.queries[query].sources))[:16]


def note(root: str, pipeline: Pipeline, query: str) -> str:
    """Write the contract of a query's sources unless it is known, and return its name."""
    name = digest(pipeline, query)
    path = paths.contract(root, pipeline.name, name)
    if small_files.read_json(path) is None:
        small_files.write_json(path, fingerprint.accepting(pipeline, pipeline.queries[query].sources))
    return name


def read(root: str, pipeline: str, name: str) -> Mapping[str, Source] | None:
    """Return topic -> source as a noted contract declared it.

    None if there is no such note, or if a later release wrote one that this release does not understand (after a roll-back).
    """
    noted = small_files.read_json(paths.contract(root, pipeline, name))
    if noted is None:
        return None
    try:
        return {topic: Source.model_validate(source) for topic, source in noted.items()}
    except ValidationError:
        return None
