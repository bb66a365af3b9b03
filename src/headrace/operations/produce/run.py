"""What the command line and the demo call: produce generated events, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path

from headrace.contract.bindings import KafkaBinding
from headrace.contract.model import Pipeline, Source
from headrace.errors import HeadraceError
from headrace.operations.produce.files import count_records, read_records
from headrace.operations.produce.generate import generate
from headrace.operations.produce.mix import Mix
from headrace.operations.produce.rows import OddRows
from headrace.operations.produce.send import send
from headrace.operations.produce.summary import Report, Summary, UndeliveredError


def produce_generated(
    binding: KafkaBinding,
    pipelines: Mapping[str, Pipeline],
    mix: Mix,
    rate: float | None,
    progress: Report | None = None,
    start: datetime | None = None,
) -> Summary:
    """Generate the mix and send it, `rate` records a second in all (clicks come on top); None = as fast as possible.

    `mix.total_rate` as the rate keeps the mix's own plan. `start` (default: now; as fast as possible: now less the
    plan's duration, so that nothing is ahead of the clock) fixes the bytes together with the mix.
    Raises HeadraceError if a topic of the mix has no pipeline, and as `send` does.
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
) -> Summary:
    """Send an NDJSON, JSON, CSV or Parquet file to a topic, `rate` records a second; None = as fast as possible.

    Bad rows are passed on and counted in the summary's `odd`; rows that an interrupt left unsent too, where the file says
    how many it has. Raises HeadraceError for a topic of no pipeline, a file as `read_records` says, and as `send` does.
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
    """Return the source that declares a topic. Raises HeadraceError with the near match."""
    sources = {name: source for pipeline in pipelines.values() for name, source in pipeline.sources.items()}
    if topic in sources:
        return sources[topic]
    named = [t for each in pipelines.values() for t in each.sources if each.source_name(t) == topic]
    if named:
        raise HeadraceError(f"{topic!r} is the name of a source, and its topic is {named[0]}: name the topic.")
    near = get_close_matches(topic, sources, n=1)
    hint = f"did you mean {near[0]!r}? There is" if near else "there is"
    raise HeadraceError(f"No pipeline reads topic {topic!r}: {hint} {', '.join(sorted(sources))}.")
