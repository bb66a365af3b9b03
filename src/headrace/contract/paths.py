"""Where a pipeline's files are, below one storage root (a local folder or any URI that fsspec and Hadoop both know).

    <root>/checkpoints/<pipeline>/heartbeat.json, outcome.json      written by the driver
    <root>/checkpoints/<pipeline>/intent.json, supervision.json     written by operators, by the supervisor
    <root>/checkpoints/<pipeline>/<query>/<generation>/manifest.json, checkpoint/, ledger/
    <root>/files/<pipeline>/<query>/<generation>/batch_id=<n>/      a new generation has a new directory (ADR 0006)
    <root>/lake/<pipeline>/<table>/                                  the Iceberg warehouse

Paths are derived from names, never typed: so two queries cannot share a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationPaths:
    """The folders of one generation of one query."""

    folder: str
    checkpoint: str
    ledger: str
    manifest: str
    files: str


def pipeline_folder(root: str, pipeline: str) -> str:
    """Return the folder that holds a pipeline's checkpoints, lock and heartbeat."""
    return f"{root}/checkpoints/{pipeline}"


def query_folder(root: str, pipeline: str, query: str) -> str:
    """Return the folder that holds all generations of a query."""
    return f"{pipeline_folder(root, pipeline)}/{query}"


def generation_paths(root: str, pipeline: str, query: str, generation: int) -> GenerationPaths:
    """Return the folders of generation number `generation` (from 1)."""
    folder = f"{query_folder(root, pipeline, query)}/{generation:04d}"
    return GenerationPaths(
        folder=folder,
        checkpoint=f"{folder}/checkpoint",
        ledger=f"{folder}/ledger",
        manifest=f"{folder}/manifest.json",
        files=f"{query_files(root, pipeline, query)}/{generation:04d}",
    )


def query_files(root: str, pipeline: str, query: str) -> str:
    """Return the folder of a file sink, above its generations."""
    return f"{root}/files/{pipeline}/{query}"


def heartbeat(root: str, pipeline: str) -> str:
    """Return the file that a driver rewrites every few seconds, also when idle."""
    return f"{pipeline_folder(root, pipeline)}/heartbeat.json"


def outcome(root: str, pipeline: str) -> str:
    """Return the file in which a driver says how it ended; one that was killed says nothing."""
    return f"{pipeline_folder(root, pipeline)}/outcome.json"


def intent(root: str, pipeline: str) -> str:
    """Return the file with what an operator wants of the pipeline."""
    return f"{pipeline_folder(root, pipeline)}/intent.json"


def supervision(root: str, pipeline: str) -> str:
    """Return the file with what the supervisor remembers of the pipeline."""
    return f"{pipeline_folder(root, pipeline)}/supervision.json"


def lake(root: str) -> str:
    """Return the Iceberg warehouse."""
    return f"{root}/lake"
