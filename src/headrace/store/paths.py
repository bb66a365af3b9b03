"""Paths of a pipeline's files below one storage root: a folder, or `s3a://bucket/prefix` (`access.object_store`).

    <root>/checkpoints/<pipeline>/heartbeat.json, outcome.json      written by the driver
    <root>/checkpoints/<pipeline>/pace.json                         written by the driver or the supervisor after an end
    <root>/checkpoints/<pipeline>/intent.json, supervision.json     written by operators, by the supervisor
    <root>/checkpoints/<pipeline>/quarantine.json                   written by operators: records that a query passes over
    <root>/checkpoints/<pipeline>/<query>/<generation>/manifest.json, checkpoint/, ledger/
    <root>/files/<pipeline>/<query>/<generation>/batch_id=<n>/      a new generation has a new directory (ADR 0006)
    <root>/snapshots/<pipeline>/<query>/<snapshot>/snapshot.json, manifest.json, checkpoint/, ledger/
    <root>/set-aside/<when>/<pipeline>/<table>/                      the archive of a topic that was deleted and recreated
    <root>/acts/<when>-<id>.json                                     which plan was carried out, by whom, who approved it (ADR 48)
    <root>/failed-tasks/<dag>.<task>.json                            when a task of Airflow last failed for good
    <root>/trash/<when>/...                                          what prune removed, under its old path
    <root>/lake/<pipeline>/<table>/                                  the Iceberg warehouse
    <root>/quality/results/<sink>/<window>.json, latest/<sink>.json  results of the suites
    <root>/quality/position/<sink>.json, findings/<sink>.json        how far the sink was checked; open critical findings
    <root>/quality/trend/<sink>.json                                 its newest checks, for the Streams page
    <root>/quality/docs/index.html                                   Data Docs
    <root>/refresh/<pipeline>/<dimension>/drop/                      snapshots of a dimension as they arrive
    <root>/refresh/<pipeline>/<dimension>/<version>/                 the stage and the difference of one refresh

Paths are derived from names, never typed, so two queries cannot share a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GenerationPaths:
    """The folders of one generation of one query."""

    folder: str
    checkpoint: str
    ledger: str
    manifest: str
    files: str

    @property
    def topics(self) -> str:
        """Return the file with Kafka's ids of the topics that the generation reads (`store.topic_identity`)."""
        return f"{self.folder}/topics.json"

    @property
    def draft(self) -> str:
        """Return the file that a restore or rebuild writes first and removes last; while it exists the generation never ran."""
        return f"{self.folder}/draft.json"


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
    """Return the folder of a file sink, which contains its generations."""
    return f"{root}/files/{pipeline}/{query}"


def heartbeat(root: str, pipeline: str) -> str:
    """Return the file that a driver rewrites every few seconds, even when idle."""
    return f"{pipeline_folder(root, pipeline)}/heartbeat.json"


def outcome(root: str, pipeline: str) -> str:
    """Return the file in which a driver records how it ended; a killed driver records nothing."""
    return f"{pipeline_folder(root, pipeline)}/outcome.json"


def pace(root: str, pipeline: str) -> str:
    """Return the file that determines how much the pipeline's next driver reads at once (`store.pace`)."""
    return f"{pipeline_folder(root, pipeline)}/pace.json"


def check(root: str, pipeline: str) -> str:
    """Return the file in which the check of a release records what the checkpoints cannot take over."""
    return f"{pipeline_folder(root, pipeline)}/check.json"


def quarantine(root: str, pipeline: str) -> str:
    """Return the file with the records that queries of the pipeline pass over (`store.quarantine`)."""
    return f"{pipeline_folder(root, pipeline)}/quarantine.json"


def intent(root: str, pipeline: str) -> str:
    """Return the file with the desired state of the pipeline, as an operator set it."""
    return f"{pipeline_folder(root, pipeline)}/intent.json"


def history(root: str, pipeline: str) -> str:
    """Return the file with the last hour of the pipeline's queries, which the supervisor writes."""
    return f"{pipeline_folder(root, pipeline)}/history.json"


def supervision(root: str, pipeline: str) -> str:
    """Return the file with the supervisor's state of the pipeline."""
    return f"{pipeline_folder(root, pipeline)}/supervision.json"


def supervision_lock(root: str, pipeline: str) -> str:
    """Return the lock file by which supervisors on one disk exclude each other."""
    return f"{pipeline_folder(root, pipeline)}/supervision.lock"


def lake(root: str) -> str:
    """Return the Iceberg warehouse."""
    return f"{root}/lake"


def snapshots(root: str, pipeline: str, query: str) -> str:
    """Return the folder that holds all snapshots of a query."""
    return f"{root}/snapshots/{pipeline}/{query}"


def snapshot_paths(root: str, pipeline: str, query: str, snapshot: str) -> GenerationPaths:
    """Return the folders of one snapshot: those of a generation, without output files."""
    folder = f"{snapshots(root, pipeline, query)}/{snapshot}"
    return GenerationPaths(
        folder=folder,
        checkpoint=f"{folder}/checkpoint",
        ledger=f"{folder}/ledger",
        manifest=f"{folder}/manifest.json",
        files="",
    )


def snapshot_record(root: str, pipeline: str, query: str, snapshot: str) -> str:
    """Return the file that is written last: what the snapshot was taken of, and the hash of each of its files."""
    return f"{snapshots(root, pipeline, query)}/{snapshot}/snapshot.json"


def snapshot_drill(root: str, pipeline: str, query: str, snapshot: str) -> str:
    """Return the file with the result of the newest drill of a snapshot."""
    return f"{snapshots(root, pipeline, query)}/{snapshot}/drill.json"


def scratch(root: str, name: str) -> str:
    """Return a folder for temporary files; the process that creates it removes it."""
    return f"{root}/scratch/{name}"


def set_aside(root: str) -> str:
    """Return the folder for archive tables whose topic was deleted and recreated. Nothing in it is deleted automatically."""
    return f"{root}/set-aside"


def trash(root: str) -> str:
    """Return the folder for removed files that wait to be deleted."""
    return f"{root}/trash"


def contract(root: str, pipeline: str, name: str) -> str:
    """Return the file of a contract under which batches took their records."""
    return f"{root}/contracts/{pipeline}/{name}.json"


def act(root: str, at_ms: int, plan: str) -> str:
    """Return the file that records a plan that was carried out: when it began, and the plan's id (`operations.plans`)."""
    return f"{root}/acts/{at_ms}-{plan}.json"


def archive_metadata(root: str, pipeline: str, archive_query: str) -> str:
    """Return the folder of an archive table's Iceberg metadata (a Hadoop catalog derives it from the table's name)."""
    return f"{lake(root)}/{pipeline}/{archive_query}/metadata"


def batch_run(root: str, pipeline: str, run: str) -> str:
    """Return the folder of one finite run (views, reconcile): order.json, progress.json, report.json."""
    return f"{root}/batch/{pipeline}/runs/{run}"


def view_state(root: str, pipeline: str) -> str:
    """Return the file that lists the days in the batch views of a pipeline and their horizon."""
    return f"{root}/batch/{pipeline}/views.json"


def topic_looks(root: str, pipeline: str) -> str:
    """Return the file with the topic ends that the pipeline's reconciliations have observed."""
    return f"{root}/batch/{pipeline}/topics.json"


def replays(root: str, topic: str) -> str:
    """Return the folder with one journal per replay of the topic's dead letters."""
    return f"{root}/replays/{topic}"


def lineage(root: str) -> str:
    """Return the folder with OpenLineage events, one file per run."""
    return f"{root}/lineage"


def lineage_waiting(root: str) -> str:
    """Return the file with the OpenLineage events that the endpoint has not accepted yet."""
    return f"{root}/lineage_waiting.json"


def quality_results(root: str, sink: str) -> str:
    """Return the folder with a sink's results, one file per window."""
    return f"{root}/quality/results/{sink}"


def quality_latest(root: str, sink: str) -> str:
    """Return the file with the newest result of a sink."""
    return f"{root}/quality/latest/{sink}.json"


def quality_position(root: str, sink: str) -> str:
    """Return the file that records how far a sink was checked; the next check continues from there."""
    return f"{root}/quality/position/{sink}.json"


def quality_findings(root: str, sink: str) -> str:
    """Return the file with the open and the closed critical findings of a sink."""
    return f"{root}/quality/findings/{sink}.json"


def quality_trend(root: str, sink: str) -> str:
    """Return the file with the results of a sink's newest checks."""
    return f"{root}/quality/trend/{sink}.json"


def quality_docs(root: str) -> str:
    """Return the folder of the Data Docs."""
    return f"{root}/quality/docs"


def refresh(root: str, pipeline: str, dimension: str) -> str:
    """Return the folder of a dimension's refreshes."""
    return f"{root}/refresh/{pipeline}/{dimension}"


def refresh_drop(root: str, pipeline: str, dimension: str) -> str:
    """Return the folder into which snapshots of a dimension are dropped."""
    return f"{refresh(root, pipeline, dimension)}/drop"


def jvm_lock(lock_file: Path) -> Path:
    """Return the lock that a driver's JVM holds while it runs, next to that of its Python process (`driver.lock`)."""
    return lock_file.with_name(f"{lock_file.name}.jvm")


def failed_tasks(root: str) -> str:
    """Return the folder with a file for each task of Airflow that failed."""
    return f"{root}/failed-tasks"
