"""Write the two files of a new pipeline: the description of one source with one query, and its transform."""

from __future__ import annotations

import json
import keyword
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headrace.contract.files import pipeline_names
from headrace.contract.load import load_pipeline, read_folder
from headrace.contract.model import NAME_PATTERN, TOPIC_PATTERN
from headrace.contract.platform_columns import SOURCE
from headrace.contract.rules_between import clashes
from headrace.contract.wording import choices
from headrace.errors import HeadraceError
from headrace.operations.pipelines.sample import SampledColumn, is_text

SinkKind = Literal["cassandra", "kafka", "files"]
SINKS: tuple[SinkKind, ...] = ("cassandra", "kafka", "files")
_QUERIES: dict[SinkKind, str] = {"cassandra": "latest", "kafka": "rows", "files": "rows"}
_KEY_NAMES = ("id", "key", "uuid")
_TIME_NAMES = ("event_time", "created_at", "timestamp", "time", "at", "ts")


@dataclass(frozen=True)
class NewPipeline:
    """What a new pipeline is made of. Empty `key`, `event_time` and `sink` are chosen from the columns."""

    name: str
    topic: str
    columns: Sequence[SampledColumn]
    owner: str
    description: str = ""
    key: str = ""
    event_time: str = ""
    sink: SinkKind | Literal[""] = ""


def column_of(text: str) -> SampledColumn:
    """Return the column of `NAME:TYPE`, required where a `!` follows. Raises HeadraceError for another form."""
    match = re.fullmatch(r"([a-z][a-z0-9_]*):([a-z]+(?:\(\d+,\d+\))?)(!?)", text.strip())
    if not match:
        raise HeadraceError(
            f"A column is NAME:TYPE, with ! if it is required, such as amount:decimal(12,2)!, not {text!r}."
        )
    return SampledColumn(match[1], match[2], bool(match[3]))


def write(project: Path, request: NewPipeline) -> list[Path]:
    """Write pipelines/NAME.yaml and spark_jobs/NAME.py, and return both paths.

    Raises HeadraceError, and writes nothing, where a file exists already, the description does not load, or the pipeline
    clashes with another one.
    """
    if not re.fullmatch(NAME_PATTERN, request.name):
        raise HeadraceError(
            f"{request.name!r} is not a pipeline name. A name is lower-case letters, digits and _, and begins with a letter."
        )
    if not re.fullmatch(TOPIC_PATTERN, request.topic):
        raise HeadraceError(f"{request.topic!r} is not a topic. A topic has letters, digits, '.', '_' and '-'.")
    targets = [project / "pipelines" / f"{request.name}.yaml", project / "spark_jobs" / f"{request.name}.py"]
    for path in targets:
        if path.exists():
            raise HeadraceError(f"{path} exists already. Choose another name, or remove the file.")
    texts = _texts(request)
    _require_sound(project, request.name, texts[0])
    for path, text in zip(targets, texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:  # never over a file that another process wrote meanwhile
            file.write(text)
    return targets


def _require_sound(project: Path, name: str, text: str) -> None:
    """Load the description, alone and beside the other pipelines."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            made = load_pipeline(path)
        except HeadraceError as error:
            raise HeadraceError(str(error).replace(str(path), f"pipelines/{name}.yaml")) from error
    if not pipeline_names(project / "pipelines"):
        return
    others = read_folder(project / "pipelines").pipelines.values()
    faults = [clash.sentence for clash in clashes([*others, made]) if name in clash.pipelines]
    if faults:
        raise HeadraceError("\n".join(faults))


def _texts(request: NewPipeline) -> tuple[str, str]:
    columns = {column.name: column for column in request.columns}
    key = _chosen_key(request, columns)
    event_time = _chosen_time(request, columns)
    sink: SinkKind = request.sink or ("cassandra" if event_time else "files")
    if sink not in SINKS:
        raise HeadraceError(f"Unknown sink {sink!r}; {choices(sink, SINKS)}.")
    if sink == "cassandra" and not event_time:
        raise HeadraceError(
            "A table of the newest rows needs an event time: name a required timestamp column with --event-time, or choose "
            "--sink kafka or --sink files."
        )
    shown = [column for column in request.columns if column.type != "json"]
    return _description(request, key, event_time, sink, shown), _transform(request, sink, shown)


def _chosen_key(request: NewPipeline, columns: Mapping[str, SampledColumn]) -> str:
    if request.key:
        if request.key not in columns:
            raise HeadraceError(f"--key: unknown column {request.key!r}; {choices(request.key, columns)}.")
        return request.key
    good = [name for name, column in columns.items() if column.required and column.type in {"string", "long", "int"}]
    if not good:
        raise HeadraceError(
            "No column can be the record key: no text or integer is in every record. Name one with --key."
        )
    named = [name for name in good if name in _KEY_NAMES or name.endswith("_id")]
    texts = [name for name in good if columns[name].type == "string"]
    return (named or texts or good)[0]


def _chosen_time(request: NewPipeline, columns: Mapping[str, SampledColumn]) -> str:
    if request.event_time:
        if request.event_time not in columns:
            known = choices(request.event_time, columns)
            raise HeadraceError(f"--event-time: unknown column {request.event_time!r}; {known}.")
        return request.event_time
    good = [name for name, column in columns.items() if column.required and column.type == "timestamp"]
    named = [name for name in good if name in _TIME_NAMES or name.endswith(("_at", "_time"))]
    return next(iter(named or good), "")


def _description(
    request: NewPipeline, key: str, event_time: str, sink: SinkKind, shown: Sequence[SampledColumn]
) -> str:
    source, query = _source_name(request), _QUERIES[sink]
    about = request.description or f"Records of the topic {request.topic}."
    lines = [
        "# yaml-language-server: $schema=schema.json",
        f"name: {request.name}",
        f"owner: {_text(request.owner)}",
        f"description: {_text(about)}",
        "version: 1",
        "",
        "sources:",
        f"  {source}:",
        *([f"    topic: {_text(request.topic)}"] if source != request.topic else []),
        f"    key: {key}",
        "    columns:",
        *(f"      {column.name}: {_column(column, with_field=True)}" for column in request.columns),
        *([f"    event_time: {{column: {event_time}}}"] if event_time else []),
        "",
        "queries:",
        f"  {query}:",
        f"    description: {_text(_ABOUT[sink].format(key=key))}",
        f"    sources: [{source}]",
        f"    mode: {'update' if sink == 'cassandra' else 'append'}",
        "    columns:",
        *(f"      {column.name}: {_column(column)}" for column in shown),
        "    sinks:",
        f"      - {_sink(request, sink, key, event_time)}",
    ]
    return "\n".join(lines) + "\n"


_ABOUT: dict[SinkKind, str] = {
    "cassandra": "Newest record of each {key}.",
    "kafka": "One row per record, as a Kafka topic.",
    "files": "One row per record, as JSON files.",
}


def _source_name(request: NewPipeline) -> str:
    """Return the topic if it can be the name of a source, else a name derived from it. A Python keyword gets a suffix."""
    name = re.sub(r"[^a-z0-9]+", "_", request.topic.lower()).strip("_")[:40]
    if keyword.iskeyword(name):
        return f"{name}_records"
    return name if re.fullmatch(NAME_PATTERN, name) and is_text(name) else f"{request.name[:40]}_records"


def _column(column: SampledColumn, *, with_field: bool = False) -> str:
    kind = column.type if re.fullmatch(r"[a-z]+", column.type) else json.dumps(column.type)
    said = [f"type: {kind}", *(["required: true"] if column.required else [])]
    if with_field and column.path:
        dotted = any("." in part for part in column.path)
        place = json.dumps(list(column.path), ensure_ascii=False) if dotted else _text(".".join(column.path))
        said.append(f"field: {place}")
    return "{" + ", ".join(said) + "}"


def _sink(request: NewPipeline, sink: SinkKind, key: str, event_time: str) -> str:
    if sink == "cassandra":
        return f"{{kind: cassandra, partition_key: [{key}], writetime: {event_time}}}"
    if sink == "kafka":
        return f"{{kind: kafka, topic: {request.name}_rows, key: {key}}}"
    return "{kind: files}"


def _text(text: str) -> str:
    """Return the text in double quotes, which JSON and YAML read in the same way."""
    return json.dumps(text, ensure_ascii=False)


def _transform(request: NewPipeline, sink: SinkKind, shown: Sequence[SampledColumn]) -> str:
    source, query = _source_name(request), _QUERIES[sink]
    parts = "".join(f'        "{name}",\n' for name in [*(column.name for column in shown), SOURCE])
    listed = ", ".join(column.name for column in shown)
    about = f"Return {listed}, {SOURCE}: one row per record."
    if len(about) > 110:
        about = f"Return the columns of the file and {SOURCE}: one row per record."
    title = (
        f"{request.name.replace('_', ' ').capitalize()}. Input: one record of {request.topic}. Output: the same row."
    )
    lines = [
        f'"""{title}"""',
        "",
        "from pyspark.sql import DataFrame",
        "",
        "",
        f"def {query}({source}: DataFrame) -> DataFrame:",
        f'    """{about}"""',
        f"    return {source}.select(\n{parts}    )",
    ]
    return "\n".join(lines) + "\n"
