"""The files of Spark's two state stores, and which of them a version needs.

`state/<operator>/<partition>/[<store>/]<version>.<kind>`; batch n loads version n and writes n + 1. A version consists of
the newest full file at or below it plus every later change file:

| store | full | change | source |
|---|---|---|---|
| memory | `.snapshot` | `.delta` | Spark: HDFSBackedStateStoreProvider |
| rocksdb | `.zip`, which names the files below `SSTs/` and `logs/` that belong to it | `.changelog` | Spark: RocksDBFileManager |
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

_VERSION = re.compile(r"^(\d+)\.(delta|snapshot|changelog|zip)$")
_ROCKSDB = frozenset({"changelog", "zip"})
STATE = "state/"


@dataclass(frozen=True)
class StateChain:
    """The files that one store needs to load a version: those that exist (`files`) and those that do not (`missing`).

    Both hold names relative to the store's folder, such as 12.delta or SSTs/000034-<uuid>.sst.
    """

    files: tuple[str, ...]
    missing: tuple[str, ...]


def stores(files: Iterable[str]) -> dict[str, list[str]]:
    """Return store folder -> its version files; paths are relative to the checkpoint. `_metadata` is not a store."""
    result: dict[str, list[str]] = {}
    for path in files:
        folder, _, name = path.rpartition("/")
        if path.startswith(STATE) and _VERSION.match(name):
            result.setdefault(folder, []).append(name)
    return result


def partitions(folders: Mapping[str, object]) -> dict[str, set[int]]:
    """Return operator -> the partitions that have stores."""
    operators: dict[str, set[int]] = {}
    for folder in folders:
        parts = folder.split("/")
        operators.setdefault(parts[1], set()).add(int(parts[2]))
    return operators


def chain(names: Iterable[str], version: int) -> StateChain:
    """Return which of one store's version files are needed to load `version`, starting at the newest full file.

    Files referred to by a RocksDB zip file are not included: `needed` adds them.
    """
    versions = {(int(match[1]), match[2]) for name in names if (match := _VERSION.match(name))}
    rocksdb = any(kind in _ROCKSDB for _, kind in versions)
    full, change = ("zip", "changelog") if rocksdb else ("snapshot", "delta")
    newest = max((v for v, kind in versions if kind == full and v <= version), default=0)
    wanted = [(newest, full)] if newest else []
    wanted += [(v, change) for v in range(newest + 1, version + 1)]
    # Spark could also start from an older full file; it is not needed while the newest is intact
    return StateChain(
        tuple(f"{v}.{kind}" for v, kind in wanted if (v, kind) in versions),
        tuple(f"{v}.{kind}" for v, kind in wanted if (v, kind) not in versions),
    )


def needed(files: Mapping[str, int], store: str, version: int, read: Callable[[str], bytes]) -> StateChain:
    """Return all files needed to load `version` of one store, including those that a RocksDB zip file refers to.

    `files` maps the checkpoint's files to their sizes in bytes, `store` is the store's folder, and `read` returns the content
    of a path below the checkpoint. A file whose size differs from its zip file's entry counts as missing. Raises ValueError
    for an unreadable zip file, and whatever `read` raises.
    """
    prefix = f"{store}/"
    versions = chain((path.removeprefix(prefix) for path in files if path.startswith(prefix)), version)
    kept, missing = list(versions.files), list(versions.missing)
    for name in versions.files:
        if name.endswith(".zip") and files[prefix + name]:
            for path, size in _referred(read(prefix + name), prefix + name).items():
                (kept if files.get(prefix + path) == size else missing).append(path)
    return StateChain(tuple(kept), tuple(missing))


def _referred(content: bytes, where: str) -> dict[str, int]:
    """Return file -> bytes of the files that a RocksDB checkpoint's metadata refers to (RocksDBCheckpointMetadata)."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _, _, text = archive.read("metadata").decode().partition("\n")  # the first line is the format version
        metadata = json.loads(text)
        tables = {f"SSTs/{entry['dfsSstFileName']}": int(entry["sizeBytes"]) for entry in metadata["sstFiles"]}
        return tables | {
            f"logs/{entry['dfsLogFileName']}": int(entry["sizeBytes"]) for entry in metadata.get("logFiles") or []
        }
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is not a RocksDB checkpoint: {error}") from error
