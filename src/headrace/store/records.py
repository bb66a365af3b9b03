"""Documents: frozen dataclasses with one way to JSON and one way back, read by an older and by a newer release.

- A field that the reader does not know is ignored: a newer release wrote it.
- A field that the document lacks (an older release wrote it), or that is null and may not be, gets the default of the
  dataclass.
- The key of a field is its name, or what `key` says: files keep the keys that installations have on disk.
- A field made by `optional` is left out while it has its default.
- JSON also has the properties that a class names in `COMPUTED`. They are not read back.
- The field `kind` selects the class of a union of dataclasses. An unknown kind selects the first one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from headrace.errors import HeadraceError
from headrace.store import small_files

Record = TypeVar("Record")

Json = dict[str, Any]
"""A JSON object: what a file holds, before it is read into a dataclass."""

Row = dict[str, Any]
"""A row of a table or topic: column -> cell. The pipeline file names the columns, so no dataclass can."""

_KEY = "json key"
_OPTIONAL = "left out of JSON while it has its default"
_MISSING: Any = object()


def key(name: str, default: Any = _MISSING, factory: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - as `field`
    """Return a dataclass field that has another name in JSON. Without a default the field is required."""
    metadata = {_KEY: name}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    if default is _MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def optional(default: Any = None, factory: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - as `field`
    """Return a dataclass field that JSON lacks while it has its default."""
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata={_OPTIONAL: factory()})
    return dataclasses.field(default=default, metadata={_OPTIONAL: default})


def to_json(record: object) -> Json:
    """Return a dataclass as plain JSON values, the dataclasses inside it too."""
    values = ((name, getattr(record, attribute), omitted) for attribute, name, _, omitted in _shape(type(record)))
    computed = {name: plain(getattr(record, name)) for name in getattr(record, "COMPUTED", ())}
    return {name: plain(value) for name, value, omitted in values if value != omitted} | computed


def from_json(kind: type[Record], document: object) -> Record:
    """Return a dataclass made of a JSON object; see the rules of this module.

    Raises HeadraceError if the document is no JSON object, or lacks a field without a default.
    """
    if not isinstance(document, Mapping):
        raise HeadraceError(f"{_title(kind)} is a JSON object, not {type(document).__name__}: restore the file.")
    values = {
        attribute: _typed(hint, document[name])
        for attribute, name, hint, _ in _shape(kind)
        if name in document and (document[name] is not None or _may_be_null(hint))
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise HeadraceError(f"{_title(kind)} lacks a field ({error}): restore the file.") from error


def read(kind: type[Record], path: str) -> Record | None:
    """Return the document in a file, None without such a file. Raises HeadraceError that names a file it cannot read."""
    document = small_files.read_json(path)
    if document is None:
        return None
    try:
        return from_json(kind, document)
    except HeadraceError as error:
        raise HeadraceError(f"{path} cannot be read: {error}") from error


def write(path: str, record: object) -> None:
    """Replace a file by a document, in one piece."""
    small_files.write_json(path, to_json(record))


def short_id(basis: object) -> str:
    """Return the id of a text or of JSON values, 16 hexadecimal digits: the same content gives the same id."""
    text = basis if isinstance(basis, str) else json.dumps(basis, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_SHAPES: dict[type, tuple[tuple[str, str, Any, Any], ...]] = {}


def _shape(kind: type) -> tuple[tuple[str, str, Any, Any], ...]:
    """Return attribute, JSON key, type and the value that is left out, of every field; found out once a class."""
    if kind not in _SHAPES:
        hints = get_type_hints(kind)
        _SHAPES[kind] = tuple(
            (
                field.name,
                field.metadata.get(_KEY, field.name),
                hints[field.name],
                field.metadata.get(_OPTIONAL, _MISSING),
            )
            for field in dataclasses.fields(kind)
        )
    return _SHAPES[kind]


def _may_be_null(hint: Any) -> bool:  # noqa: ANN401 - a type
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _title(kind: type) -> str:
    return f"A document of kind {kind.__name__}"


def plain(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """Return a value as plain JSON values: dataclasses, mappings and lists, and what they hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def _typed(hint: Any, value: Any) -> Any:  # noqa: ANN401 - JSON values
    """Return a JSON value as its type has it: objects as dataclasses, lists as tuples where the type says so."""
    if value is None:
        return None
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _typed(_chosen([option for option in inner if option is not type(None)], value), value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value)
    if origin is tuple and inner[-1] is Ellipsis:
        return tuple(_typed(inner[0], item) for item in value)
    if origin is tuple:
        return tuple(_typed(of, item) for of, item in zip(inner, value, strict=False))
    if origin in (list, Sequence):
        return [_typed(inner[0], item) for item in value]
    if origin in (dict, Mapping):
        return {inner[0](name): _typed(inner[1], item) for name, item in value.items()}
    return value


def _chosen(options: Sequence[Any], value: Any) -> Any:  # noqa: ANN401 - types, and a JSON value
    kind = value.get("kind", _MISSING) if isinstance(value, Mapping) else _MISSING
    return next((option for option in options if getattr(option, "kind", None) == kind), options[0])
