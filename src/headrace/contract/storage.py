"""Small files below the storage root, by fsspec: one code for a disk, a volume and an object store."""

from __future__ import annotations

import json
import uuid
from typing import Any

import fsspec

from headrace.contract import objects
from headrace.errors import HeadraceError


def locate(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that a path lies in, and the path as that one has it."""
    if objects.is_object(path):
        return objects.filesystem(), path.removeprefix(objects.SCHEME)
    fs, inner = fsspec.core.url_to_fs(path)
    return fs, inner


def renames(path: str) -> bool:
    """Return whether a file or a folder gets a new name in one piece there: on disks and volumes, nowhere else."""
    return "file" in _protocols(locate(path)[0])


def read_text(path: str) -> str | None:
    """Return the file's text, or None where there is no such file."""
    fs, inner = locate(path)
    try:
        return str(fs.cat_file(inner).decode("utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def read_json(path: str) -> Any | None:  # noqa: ANN401 - JSON values
    """Return the file's JSON value, or None where there is no such file. Raises HeadraceError on a broken file."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise HeadraceError(
            f"{path} is not JSON ({error}): restore it from a snapshot, it is written in one piece."
        ) from error


def write_text(path: str, text: str) -> None:
    """Replace a file in one piece (rename on disks, one PUT on object stores): readers see the old or the new one."""
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
    """Replace a file by a JSON value in one piece."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def list_names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; empty where there is no such folder."""
    fs, inner = locate(folder)
    try:
        return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in fs.ls(inner, detail=False, refresh=True))
    except FileNotFoundError:
        return []


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
