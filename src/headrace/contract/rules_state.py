"""Rules for state: aggregates, joins, watermarks, late rows. Each rule yields 'key: problem; remedy'.

Sources: Spark's Structured Streaming guide (output modes, watermarks, joins) and the tickets cited below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace.contract.model import Column, Pipeline, Query, format_duration
from headrace.contract.wording import choices, listed

WINDOW_START = "window_start"


def join_names_its_sources(pipeline: Pipeline) -> Iterator[str]:
    """Refuse two streams without a join, and a join whose sides are not the two sources."""
    for name, query in pipeline.queries.items():
        if query.join is None:
            if len(query.sources) > 1:
                yield (
                    f"queries.{name}.sources: {listed(query.sources)} are read but not joined; "
                    "add join (type, left, right, using, time_range), or write one query for each"
                )
        elif sorted(query.sources) != sorted([query.join.left, query.join.right]):
            yield (
                f"queries.{name}.join: left is {query.join.left} and right is {query.join.right}, "
                f"but the sources are {listed(query.sources)}; name the two sources, one on each side"
            )


def join_columns_are_on_both_sides(pipeline: Pipeline) -> Iterator[str]:
    """Refuse join columns that are missing on a side, differ in type, or may be null: null matches nothing."""
    for name, query in pipeline.queries.items():
        for column in query.join.using if query.join else []:
            types = {}
            for side in query.sources:
                columns = pipeline.sources[side].columns if side in pipeline.sources else {}
                if column not in columns:
                    yield f"queries.{name}.join.using: {column!r} is not a column of {side}; {choices(column, columns)}"
                    continue
                types[side] = columns[column].type
                if not columns[column].required:
                    yield (
                        f"queries.{name}.join.using: {column} of {side} may be null, and null matches nothing; "
                        f"set sources.{side}.columns.{column}.required: true"
                    )
            if len(set(types.values())) > 1:
                both = listed(f"{kind} in {side}" for side, kind in types.items())
                yield f"queries.{name}.join.using: {column} is {both}; give both sides the same type"


def join_is_bounded_on_both_sides(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a join without a watermark on both sides and a time range with two bounds.

    With a watermark on the right side only, Spark accepts a left outer join that never emits unmatched rows (SPARK-58904).
    """
    for name, query in pipeline.queries.items():
        if query.join is None:
            continue
        missing = [source for source in query.sources if source not in query.watermark]
        if missing:
            yield (
                f"queries.{name}.watermark: it is missing for {listed(missing)}; the state would grow forever and unmatched rows "
                f"would never be emitted: add a delay for both sides, such as watermark: "
                f"{{{', '.join(f'{source}: 5 minutes' for source in query.sources)}}}"
            )
        span = query.join.time_range
        if span is None or span.upper is None:
            yield (
                f"queries.{name}.join.time_range: the join is not bounded in time, so no row can ever be called unmatched; "
                "write both bounds, such as time_range: {lower: 0 seconds, upper: 5 minutes}"
            )
        elif span.upper < span.lower:
            yield (
                f"queries.{name}.join.time_range: upper ({format_duration(span.upper)}) is before lower "
                f"({format_duration(span.lower)}), so nothing would ever match; swap them"
            )


def join_appends(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a join in any mode except append, and an aggregate in the same query."""
    for name, query in pipeline.queries.items():
        if query.join is None:
            continue
        if query.mode != "append":
            yield f"queries.{name}.mode: a join of streams supports only append mode, not {query.mode}; set mode: append"
        if query.aggregate is not None:
            yield (
                f"queries.{name}.aggregate: the query already has a join, and Spark loses late rows of a query that joins "
                "and then aggregates; write the joined rows to a topic and aggregate that topic in a second pipeline"
            )


def state_is_of_a_query_that_has_one(pipeline: Pipeline) -> Iterator[str]:
    """Refuse `state` on a query that keeps none between batches."""
    for name, query in pipeline.queries.items():
        if query.state and query.aggregate is None and query.join is None:
            yield f"queries.{name}.state: the query has neither aggregate nor join, so it keeps no state; remove state"


def mode_fits_the_state(pipeline: Pipeline) -> Iterator[str]:
    """Refuse complete mode without an aggregate, and an appended aggregate without a watermark."""
    for name, query in pipeline.queries.items():
        if query.mode == "complete" and query.aggregate is None:
            yield (
                f"queries.{name}.mode: complete mode needs an aggregate, whose complete result it writes; "
                "add aggregate, or set mode: append"
            )
        if query.mode == "append" and query.aggregate is not None and not query.watermark:
            yield (
                f"queries.{name}.mode: append mode needs a watermark to know when a group is final; "
                f"add watermark: {{{query.sources[0]}: 10 minutes}}, or set mode: update"
            )


def grouping_keys_are_columns(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a grouping key that is neither a column of a source nor an output column made by the transform."""
    for name, query in pipeline.queries.items():
        known = {**_source_columns(pipeline, query), **query.columns}
        for key in query.aggregate.keys if query.aggregate else []:
            if key not in known:
                yield f"queries.{name}.aggregate.keys: {key!r} is not a column of its sources; {choices(key, known)}"


def state_is_bounded(pipeline: Pipeline) -> Iterator[str]:
    """Refuse an aggregate over unboundedly many keys if no watermark removes its state. Complete mode never removes state."""
    for name, query in pipeline.queries.items():
        if query.aggregate is None or (query.watermark and query.mode != "complete"):
            continue
        if query.mode == "complete":
            why, way_out = "complete mode keeps and writes every group forever", "or use mode: update with a watermark"
        else:
            why, way_out = "without a watermark every group is kept forever", "or add a watermark and a window"
        if query.aggregate.window is not None:
            yield (
                f"queries.{name}.aggregate.window: {why}, and the number of windows is unbounded; "
                f"{'use mode: update or append with a watermark' if query.mode == 'complete' else 'add a watermark'}"
            )
        for key in query.aggregate.keys:
            if not _bounded(pipeline, query, key):
                yield (
                    f"queries.{name}.aggregate.keys: {why}, and {key} is not bounded; declare how many values it can have "
                    f"(sources.{query.sources[0]}.columns.{key}.max_distinct), {way_out}"
                )


def watermark_names_a_source_with_a_time(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a watermark on a topic that is not a source, on one without event time, or on a query without state."""
    for name, query in pipeline.queries.items():
        for topic in query.watermark:
            if topic not in query.sources:
                yield (
                    f"queries.{name}.watermark: {topic!r} is not a source of this query; {choices(topic, query.sources)}"
                )
            elif topic in pipeline.sources and pipeline.sources[topic].event_time is None:
                yield (
                    f"queries.{name}.watermark: {topic} has no event time to follow; "
                    f"add sources.{topic}.event_time, or remove the watermark"
                )
        if query.watermark and query.aggregate is None and query.join is None:
            yield f"queries.{name}.watermark: the query has no aggregate or join to bound; remove it"


def watermark_outlasts_a_fast_clock(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a delay shorter than the accepted skew: one fast clock would make the rows of all other clocks late."""
    for name, query in pipeline.queries.items():
        for topic, delay in query.watermark.items():
            time = pipeline.sources[topic].event_time if topic in pipeline.sources else None
            if time is not None and time.accepted_skew > delay:
                yield (
                    f"queries.{name}.watermark: the delay of {topic} ({format_duration(delay)}) is shorter than its "
                    f"accepted_skew ({format_duration(time.accepted_skew)}), so one fast clock would make punctual rows "
                    "late; lengthen the delay or shorten the skew"
                )


def late_rule_is_clear(pipeline: Pipeline) -> Iterator[str]:
    """Refuse state without a rule for late rows, or with a rule that contradicts the watermark.

    Spark drops a late row only if a watermarked time is part of the state's key.
    """
    for name, query in pipeline.queries.items():
        key = f"queries.{name}.late"
        if query.aggregate is None and query.join is None:
            if query.late is not None:
                yield f"{key}: without an aggregate or join no row is late; remove it"
        elif query.late is None:
            yield (
                f"{key}: missing, so the treatment of late rows is undefined; write late: drop (with a watermark) "
                "or late: include (without one)"
            )
        elif query.late == "drop" and not query.watermark:
            yield f"{key}: drop needs a watermark, because without one no row is late; add watermark or write late: include"
        elif query.late == "include" and query.watermark:
            yield f"{key}: include conflicts with the watermark, which drops late rows; remove the watermark or write late: drop"
        elif query.watermark and query.aggregate is not None and not _keyed_by_time(pipeline, query):
            yield (
                f"queries.{name}.watermark: it has no effect, because the query groups by neither a window nor an event time; "
                "add aggregate.window, or remove the watermark and write late: include"
            )


def window_is_of_event_time(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a window that is not on event time, has no length, leaves gaps, or has an offset of at least its slide."""
    for name, query in pipeline.queries.items():
        window = query.aggregate.window if query.aggregate else None
        if window is None:
            continue
        times = _event_times(pipeline, query)
        if window.column not in times:
            yield (
                f"queries.{name}.aggregate.window.column: {window.column!r} is not the event time that the watermark "
                f"follows; {choices(window.column, times)}"
            )
        if not window.size:
            yield f"queries.{name}.aggregate.window.size: a window needs a length; write a duration such as size: 5 minutes"
        if window.slide is not None and not window.slide:
            yield f"queries.{name}.aggregate.window.slide: a slide needs a length; write a duration such as slide: 5 minutes"
        if window.slide is not None and window.slide > window.size:
            yield (
                f"queries.{name}.aggregate.window.slide: {format_duration(window.slide)} is longer than the window "
                f"({format_duration(window.size)}), so rows in between would be lost; make it at most the size"
            )
        step = window.slide or window.size
        if step and window.offset >= step:
            yield (
                f"queries.{name}.aggregate.window.offset: windows begin every {format_duration(step)}, so an offset must be "
                f"shorter; write offset: {format_duration(window.offset % step)}"
            )


def _source_columns(pipeline: Pipeline, query: Query) -> dict[str, object]:
    sources = [pipeline.sources[topic] for topic in query.sources if topic in pipeline.sources]
    return {column: spec for source in sources for column, spec in source.columns.items()}


def _event_times(pipeline: Pipeline, query: Query) -> list[str]:
    sources = [pipeline.sources[topic] for topic in query.sources if topic in pipeline.sources]
    return [source.event_time.column for source in sources if source.event_time]


def _keyed_by_time(pipeline: Pipeline, query: Query) -> bool:
    aggregate = query.aggregate
    return aggregate is not None and (
        aggregate.window is not None or any(key in _event_times(pipeline, query) for key in aggregate.keys)
    )


def _bounded(pipeline: Pipeline, query: Query, key: str) -> bool:
    places: list[Mapping[str, Column]] = [
        pipeline.sources[topic].columns for topic in query.sources if topic in pipeline.sources
    ]
    return any(key in columns and columns[key].max_distinct is not None for columns in [*places, query.columns])


RULES = (
    join_names_its_sources,
    join_columns_are_on_both_sides,
    join_is_bounded_on_both_sides,
    join_appends,
    state_is_of_a_query_that_has_one,
    mode_fits_the_state,
    grouping_keys_are_columns,
    state_is_bounded,
    watermark_names_a_source_with_a_time,
    watermark_outlasts_a_fast_clock,
    late_rule_is_clear,
    window_is_of_event_time,
)
