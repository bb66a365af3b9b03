"""What a pipeline file may declare under `quality:`. A fault is a sentence: dotted key, what is wrong, remedy.

These rules need a file without other faults: the columns of a sink follow from its query, its table and its dimension.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from headrace.contract import expectation_types
from headrace.contract.cassandra import directory_columns
from headrace.contract.checked_sinks import column_types, sinks_of
from headrace.contract.model import Pipeline
from headrace.contract.model_quality import Expectation
from headrace.contract.wording import choices

_MAX_WHY = 300


def faults(pipeline: Pipeline) -> Iterator[str]:
    """Yield one sentence for each fault of a declared expectation, once for all sinks of a query."""
    yield from dict.fromkeys(_all(pipeline))


def _all(pipeline: Pipeline) -> Iterator[str]:
    for sink in sinks_of(pipeline):
        types = column_types(pipeline, sink)
        yield from _list_faults(sink.expectations, types, expectation_types.PARAMETERS)
    for name, dimension in pipeline.dimensions.items():
        key = f"dimensions.{name}.quality"
        if dimension.quality and dimension.refresh is None:
            yield f"{key}: {name} has no refresh, so nothing is checked; add a refresh or remove the expectations"
            continue
        staged = [*dimension.key, *directory_columns(pipeline, name)]
        types = {column: dimension.columns[column].type for column in staged}
        declared = [(f"{key}.{at}", expectation) for at, expectation in enumerate(dimension.quality)]
        yield from _list_faults(declared, types, expectation_types.STAGE_PARAMETERS)


def _list_faults(
    declared: Sequence[tuple[str, Expectation]], types: Mapping[str, str], parameters: Sequence[str]
) -> Iterator[str]:
    seen: dict[str, str] = {}
    for key, expectation in declared:
        if len(expectation.root) != 1:
            yield f"{key}: an entry has one expectation, this one has {len(expectation.root)}; begin each expectation with '- '"
            continue
        faults = list(_faults(key, expectation, types, parameters))
        yield from faults
        if faults:
            continue
        text = f"{expectation.type} {json.dumps(expectation.arguments, sort_keys=True)}"
        if text in seen:
            yield f"{key}: {seen[text]} declares the same expectation; remove one"
        seen[text] = key


def _faults(key: str, expectation: Expectation, types: Mapping[str, str], parameters: Sequence[str]) -> Iterator[str]:
    arguments = expectation_types.TYPES.get(expectation.type)
    if arguments is None:
        yield f"{key}: unknown expectation {expectation.type!r}; {_nearest(expectation.type)}"
        return
    known = arguments | expectation_types.OWN_ARGUMENTS
    for name, value in expectation.declared.items():
        if name not in known:
            yield f"{key}.{expectation.type}.{name}: unknown argument; {choices(name, known)}"
        elif problem := _problem(known[name].rstrip("!"), value, types, parameters):
            yield f"{key}.{expectation.type}.{name}: {problem}"
    for name, kind in arguments.items():
        if kind.endswith("!") and name not in expectation.declared:
            yield f"{key}.{expectation.type}: the argument {name} is missing; add it"
    if "min_value" in arguments and not {"min_value", "max_value"} & set(expectation.declared):
        yield f"{key}.{expectation.type}: no bound; add min_value or max_value"
    yield from _type_faults(key, expectation, types)


def _type_faults(key: str, expectation: Expectation, types: Mapping[str, str]) -> Iterator[str]:
    for column in dict.fromkeys(_named(expectation)):
        kind = types.get(column)
        if kind is None:
            continue  # it is reported already
        if expectation.type in expectation_types.OF_NUMBERS and not kind.startswith(("int", "long", "decimal")):
            yield (
                f"{key}.{expectation.type}: {column} is {kind}, and the expectation compares numbers; choose a column of numbers "
                "(for a time: _ahead_seconds, or the seconds between two times)"
            )
        if expectation.type in expectation_types.OF_TEXTS and kind != "string":
            yield f"{key}.{expectation.type}: {column} is {kind}, and the expectation reads text; choose a column of type string"


def _named(expectation: Expectation) -> Iterator[str]:
    for name in ("column", "column_A", "column_B"):
        if isinstance(expectation.declared.get(name), str):
            yield expectation.declared[name]
    listed = expectation.declared.get("column_list")
    yield from (name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()


def _nearest(name: str) -> str:
    known = choices(name, expectation_types.TYPES)
    near = known.partition("; ")[2]
    return near or "docs/howto/quality.md lists the known expectations"


def _problem(kind: str, value: Any, types: Mapping[str, str], parameters: Sequence[str]) -> str:  # noqa: ANN401
    """Return what is wrong with an argument and the remedy; "" where nothing is. `value` is any value of the file."""
    if kind in expectation_types.CHOICES:
        allowed = expectation_types.CHOICES[kind]
        return "" if value in allowed else f"{value!r} is not allowed; {choices(str(value), allowed)}"
    if kind == "column":
        return _column_problem(value, types)
    if kind == "columns":
        if not isinstance(value, list) or len(value) < 2:
            return f"{value!r} is not a list of two or more columns; write such as [{', '.join(list(types)[:2])}]"
        return next(filter(None, (_column_problem(name, types) for name in value)), "")
    if kind in {"bound", "number"}:
        return _number_problem(value, parameters)
    if kind in {"regex", "regexes"}:
        texts = value if kind == "regexes" else [value]
        if not isinstance(texts, list) or not texts:
            return f"{value!r} is not a list; write a list of regular expressions"
        return next(filter(None, map(_regex_problem, texts)), "")
    wanted, holds = _PLAIN[kind]
    return "" if holds(value) else f"{value!r} is not {wanted}; write {wanted}"


def _column_problem(value: Any, types: Mapping[str, str]) -> str:  # noqa: ANN401 - any value of the file
    return (
        "" if isinstance(value, str) and value in types else f"unknown column {value!r}; {choices(str(value), types)}"
    )


def _number_problem(value: Any, parameters: Sequence[str]) -> str:  # noqa: ANN401 - any value of the file
    if isinstance(value, dict):
        if set(value) != {"$PARAMETER"}:
            return f"{value!r} is neither a number nor a parameter; write {{$PARAMETER: {parameters[0]}}}"
        named = value["$PARAMETER"]
        return "" if named in parameters else f"unknown parameter {named!r}; {choices(str(named), parameters)}"
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    return "" if good else f"{value!r} is not a number; write a number"


def _regex_problem(value: Any) -> str:  # noqa: ANN401 - any value of the file
    try:
        groups = re.compile(value).groups
    except (TypeError, re.error) as error:
        return f"{value!r} is not a regular expression ({error}); correct it"
    return f"{value!r} has a capturing group, which pandas warns about; write (?:...) for (...)" if groups else ""


def _is_value(value: Any) -> bool:  # noqa: ANN401 - any value of the file
    return isinstance(value, (str, int, float, bool))


_PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "share": (
        "a share from 0 to 1",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1,
    ),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "values": (
        "a list of texts, numbers or true and false",
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_value, value)),
    ),
    "text": ("a text", lambda value: isinstance(value, str) and bool(value)),
    "sentence": (
        f"a sentence of at most {_MAX_WHY} characters that ends with '.'",
        lambda value: isinstance(value, str) and value.endswith(".") and 2 < len(value) <= _MAX_WHY,
    ),
}
