"""Lineage events with their facets, made with OpenLineage's client, written to files and posted to an HTTP endpoint.

This is a separate module because the import of the client takes a third of a second: only commands that emit events pay for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import attr
from openlineage.client.event_v2 import InputDataset, OutputDataset, Run, RunEvent, RunState
from openlineage.client.event_v2 import Job as RunJob
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    documentation_job,
    error_message_run,
    job_type_job,
    output_statistics_output_dataset,
    ownership_job,
    parent_run,
    schema_dataset,
    set_producer,
)
from openlineage.client.generated.data_quality_assertions_dataset import Assertion
from openlineage.client.serde import Serde
from openlineage.client.transport.http import HttpConfig, HttpTransport
from openlineage.client.uuid import generate_static_uuid

from headrace import __version__
from headrace.operations.lineage.graph import NAMESPACE, PARENT, Dataset, Event, LineageJob, Origin
from headrace.store import paths, small_files, trees
from headrace.store.records import Json

PRODUCER = f"urn:headrace:{__version__}"
HTTP_SECONDS = 5.0
HTTP_TRIES = 2
set_producer(PRODUCER)

Kind = Literal["START", "RUNNING", "COMPLETE", "ABORT", "FAIL"]
ENDS = ("COMPLETE", "ABORT", "FAIL")
WAITING_KEPT = 5_000
RUNS_KEPT = 50
"""Files kept for each job, one for each run. Once there are twice as many, the oldest are removed."""


@attr.define
class HeadraceRunFacet(RunFacet):
    """The facet of a run: generation, batch and offsets of a stream, or run and days of a view. `told` is the JSON key."""

    told: Json


def event(
    job: LineageJob,
    run: str,
    kind: Kind,
    at_ms: int,
    details: Mapping[str, Any],
    rows: int | None = None,
    error: str = "",
    checks: Mapping[str, Sequence[Assertion]] | None = None,
    *,
    parent: parent_run.ParentRunFacet | None = None,
) -> RunEvent:
    """Return one event. `run` is a UUID, `at_ms` milliseconds since 1970, `details` the content of the run's facet.

    `rows` is the number of rows that the first output received. `error` says why the run failed. `checks` are the results of
    expectations, by the name of their input dataset. `parent` is the run that began this one (`dag_run`).
    """
    facets: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet(job.kind, "HEADRACE", "QUERY"),
        "documentation": documentation_job.DocumentationJobFacet(job.description),
        "ownership": ownership_job.OwnershipJobFacet([ownership_job.Owner(job.owner, "MAINTAINER")]),
    }
    run_facets: dict[str, RunFacet] = {"headrace": HeadraceRunFacet(dict(details))}
    if error:
        run_facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error[:1_000], "python")
    if parent:
        run_facets["parent"] = parent
    outputs = [OutputDataset(dataset.namespace, dataset.name, facets=_facets(dataset)) for dataset in job.outputs]
    if rows is not None:
        counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        outputs[0].outputFacets = {"outputStatistics": counted}
    inputs = [InputDataset(dataset.namespace, dataset.name, facets=_facets(dataset)) for dataset in job.inputs]
    for dataset in inputs:
        if checks and dataset.name in checks:
            assertions = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(list(checks[dataset.name]))
            dataset.inputFacets = {"dataQualityAssertions": assertions}
    return RunEvent(
        eventType=RunState[kind],
        eventTime=datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        run=Run(run, run_facets),
        job=RunJob(NAMESPACE, job.name, facets),
        inputs=inputs,
        outputs=outputs,
        producer=PRODUCER,
    )


def dag_run() -> parent_run.ParentRunFacet | None:
    """Return the DAG run of the task that calls this, None outside of a task.

    Its id is the one that Airflow's OpenLineage provider gives it (`OpenLineageAdapter.build_dag_run_id`).
    """
    if not (said := os.environ.get(PARENT)):
        return None
    run, variables = json.loads(said), ("AIRFLOW__OPENLINEAGE__NAMESPACE", "OPENLINEAGE_NAMESPACE")
    namespace = next((name for variable in variables if (name := os.environ.get(variable))), "default")
    data = f"{namespace}.{run['dag']}.{run['clear']}".encode()
    run_id = str(generate_static_uuid(datetime.fromisoformat(run["at"]), data))
    root = parent_run.Root(parent_run.RootRun(run_id), parent_run.RootJob(namespace, run["dag"]))
    return parent_run.ParentRunFacet(parent_run.Run(run_id), parent_run.Job(namespace, run["dag"]), root)


def emit(root: str, events: Sequence[RunEvent]) -> str:
    """Write events to files, one for each job and run, and post them to OPENLINEAGE_URL. Returns the error of the post, or "".

    The file of a run keeps the newest event of each kind, so an endless job leaves one small file. A known event is neither
    written nor posted again. A run that has ended gets no further event.

    The endpoint and the key are the client's variables too (OPENLINEAGE_ENDPOINT, OPENLINEAGE_API_KEY). An unreachable endpoint
    never fails a duty: the files have the events, and the next call posts those that the endpoint has not accepted.
    """
    new = [content for entry in events if _keep(root, content := Serde.to_dict(entry))]
    url = os.environ.get("OPENLINEAGE_URL", "")
    if not url:
        return ""
    if not url.startswith(("http://", "https://")):
        return f"OPENLINEAGE_URL is no HTTP address: {url}"
    waiting = small_files.read_json(paths.lineage_waiting(root)) or []
    unsent, error = _post(url, [*waiting, *new])
    if unsent != waiting:
        small_files.write_json(paths.lineage_waiting(root), unsent[-WAITING_KEPT:])
    return error


def _post(url: str, events: list[Event]) -> tuple[list[Event], str]:
    """Post events in their order. Returns the events that were not accepted, and the error of the first of them."""
    if not events:
        return [], ""
    key = os.environ.get("OPENLINEAGE_API_KEY", "")
    transport = HttpTransport(
        HttpConfig.from_dict({
            "url": url,
            "endpoint": os.environ.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage"),
            "timeout": HTTP_SECONDS,
            "auth": {"type": "api_key", "apiKey": key} if key else {},
            "retry": {"total": HTTP_TRIES, "connect": HTTP_TRIES, "read": HTTP_TRIES},
        })
    )  # fmt: skip
    accepted = 0
    try:
        for accepted, content in enumerate(events):  # noqa: B007 - the handler below needs the index
            transport.emit(cast(RunEvent, content))  # it also accepts an event as JSON values
    except (OSError, ValueError, RuntimeError) as error:
        return events[accepted:], f"{url} did not take the events: {error}"
    finally:
        transport.close()
    return [], ""


def _keep(root: str, content: Event) -> bool:
    """Write an event into the file of its run. Returns whether the event is new."""
    folder = f"{paths.lineage(root)}/{content['job']['name']}"
    path = f"{folder}/{content['run']['runId']}.json"
    known = small_files.read_json(path)
    if known is None:
        _thin_out(folder)
    before = {entry["eventType"]: entry for entry in ([known] if isinstance(known, dict) else known or [])}
    kind = content["eventType"]
    if before.keys() & {*ENDS} or (kind in before and before[kind]["eventTime"] >= content["eventTime"]):
        return False
    order = ("START", "RUNNING", *ENDS)
    small_files.write_json(path, [entry for name in order if (entry := (before | {kind: content}).get(name))])
    return True


def _thin_out(folder: str) -> None:
    names = [name for name in small_files.list_names(folder) if name.endswith(".json")]
    if len(names) < 2 * RUNS_KEPT:
        return

    def newest(name: str) -> str:
        content = small_files.read_json(f"{folder}/{name}") or []
        return max(
            (str(entry["eventTime"]) for entry in ([content] if isinstance(content, dict) else content)), default=""
        )

    for name in sorted(names, key=newest)[:-RUNS_KEPT]:
        trees.remove_file(f"{folder}/{name}")


def _facets(dataset: Dataset) -> dict[str, DatasetFacet]:
    facets: dict[str, DatasetFacet] = {}
    if dataset.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in dataset.columns.items()]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    if dataset.origins or dataset.row_origins:
        facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(
            fields={
                column: column_lineage_dataset.Fields([_input_field(origin) for origin in origins])
                for column, origins in dataset.origins.items()
            },
            dataset=[_input_field(origin) for origin in dataset.row_origins],
        )
    return facets


def _input_field(origin: Origin) -> column_lineage_dataset.InputField:
    kind = "INDIRECT" if origin.how in {"GROUP_BY", "JOIN"} else "DIRECT"
    how = column_lineage_dataset.Transformation(kind, origin.how)
    return column_lineage_dataset.InputField(origin.namespace, origin.name, origin.column, [how])
