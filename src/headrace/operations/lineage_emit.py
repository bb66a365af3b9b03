"""OpenLineage's own client for our jobs: events with their facets, as files and to an HTTP endpoint.

Apart from `lineage`, for the client's import takes a third of a second, which no command should pay that emits nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import attr
from openlineage.client.event_v2 import InputDataset, OutputDataset, Run, RunEvent, RunState
from openlineage.client.event_v2 import Job as RunJob
from openlineage.client.facet_v2 import (
    RunFacet,
    documentation_job,
    job_type_job,
    output_statistics_output_dataset,
    ownership_job,
    schema_dataset,
    set_producer,
)
from openlineage.client.serde import Serde
from openlineage.client.transport.http import HttpConfig, HttpTransport

from headrace import __version__
from headrace.contract import paths, storage
from headrace.operations.lineage import NAMESPACE, Dataset, Job

PRODUCER = f"urn:headrace:{__version__}"
HTTP_SECONDS = 5.0
HTTP_TRIES = 2
set_producer(PRODUCER)

Kind = Literal["RUNNING", "COMPLETE"]


@attr.define
class HeadraceRunFacet(RunFacet):
    """What one event of ours says of its run: generation, batch and offsets of a stream, or run and days of a view."""

    told: dict[str, Any]


def event(job: Job, run: str, kind: Kind, at_ms: int, told: Mapping[str, Any], rows: int | None = None) -> RunEvent:
    """Return one event. `run` is a UUID, `at_ms` milliseconds since 1970, `rows` what the first output got."""
    facets: dict[str, Any] = {
        "jobType": job_type_job.JobTypeJobFacet(job.kind, "HEADRACE", "QUERY"),
        "documentation": documentation_job.DocumentationJobFacet(job.description),
        "ownership": ownership_job.OwnershipJobFacet([ownership_job.Owner(job.owner, "MAINTAINER")]),
    }
    outputs = [OutputDataset(each.namespace, each.name, facets=_schema(each)) for each in job.outputs]
    if rows is not None:
        counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        outputs[0].outputFacets = {"outputStatistics": counted}
    return RunEvent(
        eventType=RunState[kind],
        eventTime=datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(),
        run=Run(run, {"headrace": HeadraceRunFacet(dict(told))}),
        job=RunJob(NAMESPACE, job.name, facets),
        inputs=[InputDataset(each.namespace, each.name, facets=_schema(each)) for each in job.inputs],
        outputs=outputs,
        producer=PRODUCER,
    )


def emit(root: str, events: Sequence[RunEvent]) -> str:
    """Write events to files, one a job and run, and post them where OPENLINEAGE_URL says. Returns the error of that, or "".

    The endpoint and key are the client's own variables too (OPENLINEAGE_ENDPOINT, OPENLINEAGE_API_KEY). An endpoint that
    is away never fails a duty: the files have the events.
    """
    for each in events:
        name = f"{each.job.name}/{each.run.runId}.json"
        storage.write_json(f"{paths.lineage(root)}/{name}", Serde.to_dict(each))
    url = os.environ.get("OPENLINEAGE_URL", "")
    if not url:
        return ""
    if not url.startswith(("http://", "https://")):
        return f"OPENLINEAGE_URL is no HTTP address: {url}"
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
    try:
        for each in events:
            transport.emit(each)
    except (OSError, ValueError, RuntimeError) as error:
        return f"{url} did not take the events: {error}"
    finally:
        transport.close()
    return ""


def _schema(dataset: Dataset) -> dict[str, Any]:
    fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in dataset.columns.items()]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}
