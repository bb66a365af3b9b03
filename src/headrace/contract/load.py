"""Load pipeline files strictly. Every fault is reported as file, dotted key, problem and remedy."""

from __future__ import annotations

import typing
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from headrace.contract import model, rules, rules_between, rules_quality
from headrace.contract.files import pipeline_files
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Pipeline
from headrace.contract.wording import choices, printable
from headrace.errors import HeadraceError

Entry = TypeVar("Entry")

_SINKS: dict[str, type[BaseModel]] = {"cassandra": CassandraSink, "kafka": KafkaSink, "files": FilesSink}
_NO_NAME = (
    "not a name; a name has lower-case letters, digits and _, begins with a letter, and has at most 48 characters"
)

_NAMED_AS = {
    "sources": "; choose a valid name for the source, and write the topic's real name below it as `topic:`",
    "columns": "; choose a valid name for the column, and write the JSON field's real name as `field:`",
}


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML loader that rejects duplicate keys instead of silently keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _fault_at(key_node, "a key is a list or a mapping; write a plain string")
            key = self.construct_object(key_node)
            if key in keys:
                raise _fault_at(
                    key_node,
                    f"the key {key!r} appears twice: the second value would silently replace the first, and two queries "
                    "with one name would share a checkpoint; rename or remove one",
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


def _fault_at(node: yaml.Node, sentence: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, sentence, node.start_mark)


def load_pipeline(path: Path) -> Pipeline:
    """Read, check and return one pipeline, its sources named by topic (`Pipeline.by_topic`).

    Raises HeadraceError with one line per fault of the file.
    """
    content = _read(path)
    try:
        pipeline = Pipeline.model_validate(content)
    except ValidationError as error:
        raise _refusal(path, (_sentence(fault) for fault in error.errors())) from error
    problems = list(rules.faults(pipeline)) or list(rules_quality.faults(pipeline))
    if pipeline.name != path.stem:
        problems.insert(
            0, f"name: {pipeline.name!r} differs from the file name; rename the file to {pipeline.name}.yaml"
        )
    if problems:
        raise _refusal(path, problems)
    return pipeline.by_topic()


def by_name(pipelines: Mapping[str, Entry], name: str) -> Entry:
    """Return the entry called `name`. Raises HeadraceError, listing the known names, if there is none."""
    if name not in pipelines:
        raise HeadraceError(f"Unknown pipeline {name!r}. Known pipelines: {', '.join(pipelines) or 'none'}.")
    return pipelines[name]


@dataclass(frozen=True)
class Folder:
    """The content of a folder of pipeline files. A broken file affects only its own pipeline.

    `pipelines` holds those whose file loads, `broken` maps the names of the others to what is wrong. `clashes` maps the
    name of a pipeline that loads but must not be started or provisioned next to the others to the reason; a driver that
    already runs continues.
    """

    pipelines: Mapping[str, Pipeline]
    broken: Mapping[str, str]
    clashes: Mapping[str, str]

    def pipeline(self, name: str) -> Pipeline:
        """Return one pipeline. Raises HeadraceError if its file is broken or the name is unknown."""
        if name in self.broken:
            raise HeadraceError(self.broken[name])
        return by_name(self.pipelines, name)

    def startable(self, name: str) -> Pipeline:
        """Return one pipeline that may be started and provisioned. Raises HeadraceError, also for a clash."""
        pipeline = self.pipeline(name)
        if name in self.clashes:
            raise HeadraceError(self.clashes[name])
        return pipeline

    def faults(self) -> list[str]:
        """Return all faults, one sentence each, without duplicates."""
        texts = [*self.broken.values(), *self.clashes.values()]
        return list(dict.fromkeys(line for text in texts for line in text.splitlines()))


def read_folder(folder: Path) -> Folder:
    """Return the content of a folder. Raises HeadraceError only if it has no pipeline file at all."""
    paths = pipeline_files(folder)
    if not paths:
        raise HeadraceError(f"No pipeline file (*.yaml) in {folder}. Name the folder that holds them.")
    loaded: dict[str, Pipeline] = {}
    broken: dict[str, str] = {}
    for path in paths:
        try:
            if path.suffix == ".yml":
                raise HeadraceError(f"{path}: pipeline files end with .yaml. Rename it to {path.stem}.yaml.")
            loaded[path.stem] = load_pipeline(path)
        except HeadraceError as error:
            broken[path.stem] = "\n".join(filter(None, (broken.get(path.stem), str(error))))
    clashes: dict[str, list[str]] = {}
    for clash in rules_between.clashes(loaded.values()):
        for name in clash.pipelines:
            clashes.setdefault(name, []).append(clash.sentence)
    handed_on: dict[str, dict[str, KafkaSink]] = {}
    for chain in rules_between.chains(loaded.values()):
        handed_on.setdefault(chain.reader.name, {})[chain.topic] = chain.sink
    loaded |= {name: loaded[name].reading(written) for name, written in handed_on.items()}
    return Folder(loaded, broken, {name: "\n".join(sentences) for name, sentences in clashes.items()})


def load_pipelines(folder: Path) -> dict[str, Pipeline]:
    """Return all pipelines of a folder by name, sorted, for callers that need all of them to be valid.

    Raises HeadraceError for a fault in a file, an empty folder, or pipelines that clash.
    """
    content = read_folder(folder)
    if content.faults():
        raise HeadraceError("\n".join(content.faults()))
    return dict(content.pipelines)


def _read(path: Path) -> Any:  # noqa: ANN401 - any YAML value; the model checks it
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if path.is_symlink():
            target = path.readlink()
            raise HeadraceError(
                f"{path} links to {target}, which does not exist. Correct or remove the link."
            ) from error
        near = get_close_matches(path.name, [other.name for other in pipeline_files(path.parent)], n=1)
        hint = f"Did you mean {near[0]}?" if near else "Check the name."
        raise HeadraceError(f"No pipeline file {path}. {hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise HeadraceError(f"{path} cannot be read ({error}). It must be a readable UTF-8 text file.") from error
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise HeadraceError(f"{path}{_place(error)}: {_problem(error)}.") from error


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]


def _refusal(path: Path, sentences: Iterable[str]) -> HeadraceError:
    return HeadraceError("\n".join(f"{path}: {printable(sentence).rstrip('.')}." for sentence in sentences))


def _sentence(error: ErrorDetails) -> str:
    """Turn one pydantic error into 'key: problem; remedy'."""
    location = tuple(part for index, part in enumerate(error["loc"]) if not _is_tag(error["loc"], index))
    key = ".".join(str(part) for part in location if part != "[key]") or "the file"
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        known = sorted(_fields_at(error["loc"][:-1]))
        return f"{key}: unknown key; {choices(str(location[-1]), known)}"
    if kind == "missing":
        return f"{key}: missing; add it{_described(error['loc'])}"
    if location and location[-1] == "[key]":
        return f"{key}: {_NO_NAME}{_NAMED_AS.get(str(location[-3]), '') if location[0] == 'sources' else ''}"
    return f"{key}: {_fault(kind, given, error)}"


def _fault(kind: str, given: Any, error: ErrorDetails) -> str:  # noqa: ANN401 - any value of the file
    if kind == "literal_error":
        allowed = [word.strip(" '") for word in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{given!r} is not allowed; {choices(str(given), allowed)}"
    if kind == "union_tag_invalid":
        return f"kind {error['ctx']['tag']!r} is not allowed; {choices(error['ctx']['tag'], sorted(_SINKS))}"
    if kind == "union_tag_not_found":
        return f"kind is missing; {choices('', sorted(_SINKS))}"
    if kind == "string_pattern_mismatch":
        return _pattern(str(given), error["ctx"]["pattern"])
    return f"{error['msg'].removeprefix('Value error, ')} (it is {given!r})"


def _pattern(given: str, pattern: str) -> str:
    if pattern in (model.TYPE_PATTERN, model.SOURCE_TYPE_PATTERN):
        if given in ("float", "double", "real", "number"):
            return (
                f"{given!r} is refused because a float sum depends on the order; use decimal(12,2), or long for cents"
            )
        allowed = ["string", "boolean", "int", "long", "timestamp", "date", "decimal(p,s)"]
        allowed += ["json"] if pattern == model.SOURCE_TYPE_PATTERN else []
        return f"{given!r} is not a type; {choices(given, allowed)}"
    if pattern == model.NAME_PATTERN:
        return f"{given!r} is {_NO_NAME}"
    if pattern == model.TOPIC_PATTERN:
        return (
            f"{given!r} is not a topic name; a topic name has letters, digits, '.', '_' and '-', at most 150 characters"
        )
    if pattern == model.FIELD_PATTERN:
        return f"{given!r} is not a field name; write at most 200 printable characters without quotes and backslashes"
    return f"{given!r} does not match {pattern}"


def _is_tag(location: tuple[int | str, ...], index: int) -> bool:
    return index > 0 and isinstance(location[index - 1], int) and location[index] in _SINKS


def _described(location: tuple[int | str, ...]) -> str:
    parent = _at(location[:-1])
    field = parent.model_fields.get(str(location[-1])) if parent else None
    return f" ({field.description.rstrip('.')})" if field and field.description else ""


def _fields_at(location: tuple[int | str, ...]) -> Iterable[str]:
    parent = _at(location)
    return parent.model_fields if parent else ()


def _at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model that a pydantic location points to."""
    here: Any = Pipeline
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = _bare(field.annotation) if field else None
        elif part in _SINKS and here not in _SINKS.values():
            here = _SINKS[str(part)]
        else:
            arguments = typing.get_args(here)
            here = _bare(arguments[-1]) if arguments else None
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _bare(annotation: Any) -> Any:  # noqa: ANN401 - a type, or a typing construct
    """Return an annotation without Annotated and without `| None`."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        inner = [argument for argument in typing.get_args(annotation) if argument is not NoneType]
        return _bare(inner[0]) if len(inner) == 1 else annotation
    return annotation
