"""File trees below the storage root, through fsspec: list, copy with a hash, move, remove. Small files: `storage`."""

from __future__ import annotations

import hashlib

import fsspec

from headrace.access import object_store
from headrace.store import small_files

CHUNK = 1 << 20
_TRIES = 100


def files(folder: str) -> dict[str, int]:
    """Return path relative to `folder` -> bytes for all files of a tree, sorted; empty if the folder does not exist.

    A file that is created or removed meanwhile may or may not be included; it never hides another file.
    """
    fs, inner = small_files.locate(folder)
    if object_store.is_object(folder):
        return {
            path[len(inner) + 1 :]: int(entry_info["size"]) for path, entry_info in fs.find(inner, detail=True).items()
        }
    fs.invalidate_cache()
    sizes: dict[str, int] = {}
    waiting = [inner.rstrip("/")]
    while waiting:
        for path, size in _entries(fs, waiting.pop()).items():
            if size is None:
                waiting.append(path)
            else:
                sizes[path[len(inner.rstrip("/")) + 1 :]] = size
    return dict(sorted(sizes.items()))


def _entries(fs: fsspec.AbstractFileSystem, folder: str) -> dict[str, int | None]:
    """Return path -> bytes for the entries of a folder, None for a folder.

    fsspec's `find` omits the entire folder if one file in it disappears meanwhile.
    """
    for _ in range(_TRIES):
        try:
            entries = fs.ls(folder, detail=True, refresh=True)
            return {e["name"].rstrip("/"): None if e["type"] == "directory" else int(e["size"]) for e in entries}
        except FileNotFoundError:
            if not fs.exists(folder):
                return {}
    raise OSError(f"{folder} changes faster than it can be listed.")


def copy(source: str, target: str) -> str:
    """Copy one file and return the SHA-256 (hex) of the copied bytes. Raises FileNotFoundError."""
    from_fs, from_path = small_files.locate(source)
    to_fs, to_path = small_files.locate(target)
    digest = hashlib.sha256()
    with from_fs.open(from_path, "rb") as reading:
        to_fs.makedirs(to_path.rpartition("/")[0], exist_ok=True)
        with to_fs.open(to_path, "wb") as writing:
            while chunk := reading.read(CHUNK):
                digest.update(chunk)
                writing.write(chunk)
    return digest.hexdigest()


def sha256(path: str) -> str:
    """Return the SHA-256 (hex) of a file. Raises FileNotFoundError."""
    fs, inner = small_files.locate(path)
    digest = hashlib.sha256()
    with fs.open(inner, "rb") as reading:
        while chunk := reading.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_bytes(path: str) -> bytes:
    """Return a file's content. Raises FileNotFoundError."""
    fs, inner = small_files.locate(path)
    return bytes(fs.cat_file(inner))


def size(path: str) -> int | None:
    """Return the size of a file in bytes, or None if it does not exist."""
    fs, inner = small_files.locate(path)
    fs.invalidate_cache()
    try:
        return int(fs.info(inner)["size"])
    except FileNotFoundError:
        return None


def move(source: str, target: str) -> None:
    """Move a tree: one rename on disks, copies and deletes on object stores. The target must not exist."""
    fs, inner = small_files.locate(source)
    _, to = small_files.locate(target)
    if fs.exists(to):
        raise FileExistsError(target)
    fs.makedirs(to.rpartition("/")[0], exist_ok=True)
    fs.mv(inner, to, recursive=True)


def remove(folder: str) -> None:
    """Remove a tree, if it exists."""
    fs, inner = small_files.locate(folder)
    fs.invalidate_cache()
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


def remove_file(path: str) -> None:
    """Remove one file, if it exists."""
    fs, inner = small_files.locate(path)
    try:
        fs.rm_file(inner)
    except FileNotFoundError:
        return
