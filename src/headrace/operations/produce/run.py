"""Entry points for the command line and the demo: produce generated events, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path

from headrace.access.bindings import KafkaBinding
from headrace.contract.model import Pipeline, Source
from headrace.errors import HeadraceError
from headrace.operations.produce.files import count_records, read_records
from headrace.operations.produce.generate import generate
from headrace.operations.produce.mix import Mix
from headrace.operations.produce.rows import OddRows
from headrace.operations.produce.send import send
from headrace.operations.produce.summary import Report, SendSummary, UndeliveredError


def produce_generated(
    binding: KafkaBinding,
    pipelines: Mapping[str, Pipeline],
    mix: Mix,
    rate: float | None,
    progress: Report | None = None,
    start: datetime | None = None,
) -> SendSummary:
    """Generate the mix and send it at `rate` records per second in total (plus clicks); None: as fast as possible.

    With `mix.total_rate` as the rate, the mix's own plan is kept. `start` and the mix together determine the bytes; default:
    now, or if sent as fast as possible, now minus the plan's duration, so that no event is in the future.
    Raises HeadraceError if a topic of the mix has no pipeline, and in the same cases as `send`.
    """
    for topic in mix.topics:
        source_of(pipelines, topic)
    if rate is not None:
        mix = mix.at_rate(rate)
    if start is None:
        start = datetime.now(UTC) - (timedelta(seconds=mix.duration) if rate is None else timedelta(0))
    return send(
        generate(mix, start),
        binding,
        mix.topics,
        paced=rate is not None,
        total=mix.expected_records,
        report=progress,
    )


def produce_file(
    binding: KafkaBinding,
    pipelines: Mapping[str, Pipeline],
    path: Path,
    topic: str,
    rate: float | None,
    progress: Report | None = None,
) -> SendSummary:
    """Send an NDJSON, JSON, CSV or Parquet file to a topic at `rate` records per second; None: as fast as possible.

    Malformed rows are passed on and counted in the summary's `odd`; so are rows left unsent after an interrupt, if the file
    states its number of rows. Raises HeadraceError for a topic without a pipeline, and in the cases of `read_records` and `send`.
    """
    odd = OddRows()
    records = read_records(path, topic, source_of(pipelines, topic), rate, odd)
    total = count_records(path)
    try:
        summary = send(records, binding, [topic], paced=rate is not None, total=total, report=progress)
    except UndeliveredError as error:
        error.summary.odd = odd
        raise
    summary.odd = odd
    if summary.interrupted and total is not None and total > summary.sent:
        odd.left += total - summary.sent
        odd.named.append(f"rows {summary.sent + 1} to {total}: interrupted, left out")
    return summary


def source_of(pipelines: Mapping[str, Pipeline], topic: str) -> Source:
    """Return the source that declares a topic. Raises HeadraceError with a suggestion."""
    sources = {name: source for pipeline in pipelines.values() for name, source in pipeline.sources.items()}
    if topic in sources:
        return sources[topic]
    named = [t for spec in pipelines.values() for t in spec.sources if spec.source_name(t) == topic]
    if named:
        raise HeadraceError(f"{topic!r} is the name of a source, whose topic is {named[0]}. Name the topic.")
    near = get_close_matches(topic, sources, n=1)
    hint = f"Did you mean {near[0]!r}? Known topics:" if near else "Known topics:"
    raise HeadraceError(f"No pipeline reads topic {topic!r}. {hint} {', '.join(sorted(sources))}.")
