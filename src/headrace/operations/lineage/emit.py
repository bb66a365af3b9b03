"""OpenLineage's own client for our jobs: events with their facets, as files and to an HTTP endpoint.

Apart from `lineage`, for the client's import takes a third of a second, which no command should pay that emits nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import attr
from openlineage.client.event_v2 import InputDataset, OutputDataset, Run, RunEvent, RunState
from openlineage.client.event_v2 import Job as RunJob
from openlineage.client.facet_v2 import (
    RunFacet,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    documentation_job,
    error_message_run,
    job_type_job,
    output_statistics_output_dataset,
    ownership_job,
    schema_dataset,
    set_producer,
)
from openlineage.client.generated.data_quality_assertions_dataset import Assertion
from openlineage.client.serde import Serde
from openlineage.client.transport.http import HttpConfig, HttpTransport

from headrace import __version__
from headrace.operations.lineage.graph import NAMESPACE, Dataset, Job, Origin
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
"""Files a job, one a run; once there are twice as many the oldest go."""


@attr.define
class HeadraceRunFacet(RunFacet):
    """What one event of ours says of its run: generation, batch and offsets of a stream, or run and days of a view."""

    told: Json


def event(
    job: Job,
    run: str,
    kind: Kind,
    at_ms: int,
    told: Mapping[str, Any],
    rows: int | None = None,
    error: str = "",
    checks: Mapping[str, Sequence[Assertion]] | None = None,
) -> RunEvent:
    """Return one event. `run` is a UUID, `at_ms` milliseconds since 1970, `rows` what the first output got.

    `error` is why the run failed; `checks` are the results of expectations by the name of the input that they are about.
    """
    facets: Json = {
        "jobType": job_type_job.JobTypeJobFacet(job.kind, "HEADRACE", "QUERY"),
        "documentation": documentation_job.DocumentationJobFacet(job.description),
        "ownership": ownership_job.OwnershipJobFacet([ownership_job.Owner(job.owner, "MAINTAINER")]),
    }
    about_run: Json = {"headrace": HeadraceRunFacet(dict(told))}
    if error:
        about_run["errorMessage"] = error_message_run.ErrorMessageRunFacet(error[:1_000], "python")
    outputs = [OutputDataset(each.namespace, each.name, facets=_facets(each)) for each in job.outputs]
    if rows is not None:
        counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        outputs[0].outputFacets = {"outputStatistics": counted}
    inputs = [InputDataset(each.namespace, each.name, facets=_facets(each)) for each in job.inputs]
    for each in inputs:
        if checks and each.name in checks:
            asserted = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(list(checks[each.name]))
            each.inputFacets = {"dataQualityAssertions": asserted}
    return RunEvent(
        eventType=RunState[kind],
        eventTime=datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        run=Run(run, about_run),
        job=RunJob(NAMESPACE, job.name, facets),
        inputs=inputs,
        outputs=outputs,
        producer=PRODUCER,
    )


def emit(root: str, events: Sequence[RunEvent]) -> str:
    """Write events to files, one a job and run, and post them where OPENLINEAGE_URL says. Returns the error of that, or "".

    Of a run the newest event of each kind is kept, so an endless job leaves one small file. An event that is there already is
    neither written nor posted again, and a run that has ended stays so.

    The endpoint and key are the client's own variables too (OPENLINEAGE_ENDPOINT, OPENLINEAGE_API_KEY). An endpoint that
    is away never fails a duty: the files have the events, and the next call posts what it has not taken.
    """
    new = [told for each in events if _keep(root, told := Serde.to_dict(each))]
    url = os.environ.get("OPENLINEAGE_URL", "")
    if not url:
        return ""
    if not url.startswith(("http://", "https://")):
        return f"OPENLINEAGE_URL is no HTTP address: {url}"
    waiting = small_files.read_json(paths.lineage_waiting(root)) or []
    left, error = _post(url, [*waiting, *new])
    if left != waiting:
        small_files.write_json(paths.lineage_waiting(root), left[-WAITING_KEPT:])
    return error


def _post(url: str, events: list[Json]) -> tuple[list[Json], str]:
    """Post events in their order. Returns those that were not taken, and why the first of them was not."""
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
    done = 0
    try:
        for done, each in enumerate(events):  # noqa: B007 - which one is told below
            transport.emit(cast(RunEvent, each))  # it takes the JSON values of an event too
    except (OSError, ValueError, RuntimeError) as error:
        return events[done:], f"{url} did not take the events: {error}"
    finally:
        transport.close()
    return [], ""


def _keep(root: str, told: Json) -> bool:
    """Write an event into the file of its run. Returns whether it says something new."""
    folder = f"{paths.lineage(root)}/{told['job']['name']}"
    path = f"{folder}/{told['run']['runId']}.json"
    known = small_files.read_json(path)
    if known is None:
        _thin_out(folder)
    before = {each["eventType"]: each for each in ([known] if isinstance(known, dict) else known or [])}
    kind = told["eventType"]
    if before.keys() & {*ENDS} or (kind in before and before[kind]["eventTime"] >= told["eventTime"]):
        return False
    order = ("START", "RUNNING", *ENDS)
    small_files.write_json(path, [each for name in order if (each := (before | {kind: told}).get(name))])
    return True


def _thin_out(folder: str) -> None:
    names = [name for name in small_files.list_names(folder) if name.endswith(".json")]
    if len(names) < 2 * RUNS_KEPT:
        return

    def newest(name: str) -> str:
        told = small_files.read_json(f"{folder}/{name}") or []
        return max((str(each["eventTime"]) for each in ([told] if isinstance(told, dict) else told)), default="")

    for name in sorted(names, key=newest)[:-RUNS_KEPT]:
        trees.remove_file(f"{folder}/{name}")


def _facets(dataset: Dataset) -> Json:
    found: Json = {}
    if dataset.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in dataset.columns.items()]
        found["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    if dataset.origins or dataset.whole:
        found["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(
            fields={
                column: column_lineage_dataset.Fields([_input_field(origin) for origin in origins])
                for column, origins in dataset.origins.items()
            },
            dataset=[_input_field(origin) for origin in dataset.whole],
        )
    return found


def _input_field(origin: Origin) -> column_lineage_dataset.InputField:
    kind = "INDIRECT" if origin.how in {"GROUP_BY", "JOIN"} else "DIRECT"
    how = column_lineage_dataset.Transformation(kind, origin.how)
    return column_lineage_dataset.InputField(origin.namespace, origin.name, origin.column, [how])
