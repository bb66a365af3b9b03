"""Small files below the storage root, through fsspec: the same code for disks, volumes and object stores."""

from __future__ import annotations

import json
import uuid
from typing import Any

import fsspec

from headrace.access import object_store
from headrace.errors import HeadraceError


def locate(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a path, and the path in that file system's form."""
    if object_store.is_object(path):
        return object_store.filesystem(), path.removeprefix(object_store.SCHEME)
    fs, inner = fsspec.core.url_to_fs(path)
    return fs, inner


def renames(path: str) -> bool:
    """Return whether files and folders can be renamed atomically there: on disks and volumes only."""
    return "file" in _protocols(locate(path)[0])


def read_text(path: str) -> str | None:
    """Return the file's text, or None if it does not exist."""
    fs, inner = locate(path)
    try:
        return str(fs.cat_file(inner).decode("utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def read_json(path: str) -> Any | None:  # noqa: ANN401 - JSON values
    """Return the file's JSON value, or None if it does not exist. Raises HeadraceError if it is not JSON."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise HeadraceError(
            f"{path} is not JSON ({error}). It is always written atomically, so restore it from a snapshot."
        ) from error


def write_text(path: str, text: str) -> None:
    """Replace a file atomically (rename on disks, one PUT on object stores): readers see the old or the new content."""
    fs, inner = locate(path)
    parent, _, name = inner.rpartition("/")
    fs.makedirs(parent, exist_ok=True)
    if "file" not in _protocols(fs):
        fs.pipe_file(inner, text.encode())
        return
    aside = f"{parent}/.{name}.{uuid.uuid4().hex}"
    fs.pipe_file(aside, text.encode())
    fs.mv(aside, inner)


def write_json(path: str, value: object) -> None:
    """Replace a file by a JSON value, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def list_names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; empty if it does not exist."""
    fs, inner = locate(folder)
    try:
        return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in fs.ls(inner, detail=False, refresh=True))
    except FileNotFoundError:
        return []


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
