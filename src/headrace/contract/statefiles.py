"""The files of Spark's two state stores: which of them a version needs.

`state/<operator>/<partition>/[<store>/]<version>.<kind>`; batch n loads version n and writes n + 1. A version is the newest
full file at or below it plus every change file after that:

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
class Chain:
    """What one store needs to load a version: the files that are there, and the versions that are not.

    `files` and `missing` are names below the store's folder, such as 12.delta or SSTs/000034-<uuid>.sst.
    """

    files: tuple[str, ...]
    missing: tuple[str, ...]


def stores(files: Iterable[str]) -> dict[str, list[str]]:
    """Return store folder -> its version files, of paths relative to the checkpoint. `_metadata` is no store."""
    found: dict[str, list[str]] = {}
    for path in files:
        folder, _, name = path.rpartition("/")
        if path.startswith(STATE) and _VERSION.match(name):
            found.setdefault(folder, []).append(name)
    return found


def partitions(found: Mapping[str, object]) -> dict[str, set[int]]:
    """Return operator -> the partitions that have stores."""
    operators: dict[str, set[int]] = {}
    for folder in found:
        parts = folder.split("/")
        operators.setdefault(parts[1], set()).add(int(parts[2]))
    return operators


def chain(names: Iterable[str], version: int) -> Chain:
    """Return which version files loading `version` needs of one store's; the newest full file serves.

    What a RocksDB zip file refers to is not in it: `needed` adds that.
    """
    found = {(int(match[1]), match[2]) for name in names if (match := _VERSION.match(name))}
    rocksdb = any(kind in _ROCKSDB for _, kind in found)
    full, change = ("zip", "changelog") if rocksdb else ("snapshot", "delta")
    newest = max((v for v, kind in found if kind == full and v <= version), default=0)
    wanted = [(newest, full)] if newest else []
    wanted += [(v, change) for v in range(newest + 1, version + 1)]
    # beside its newest full file Spark can also start from an older one: it is not needed where this one is intact
    return Chain(
        tuple(f"{v}.{kind}" for v, kind in wanted if (v, kind) in found),
        tuple(f"{v}.{kind}" for v, kind in wanted if (v, kind) not in found),
    )


def needed(files: Mapping[str, int], store: str, version: int, read: Callable[[str], bytes]) -> Chain:
    """Return all files that loading `version` of one store needs, with those that a RocksDB zip file refers to.

    `files` has the checkpoint's files with their sizes in bytes, `store` the folder and `read` the content of a path below
    the checkpoint. A file of another size than its zip file says counts as missing. Raises ValueError for a zip file that
    cannot be read, and what `read` raises.
    """
    prefix = f"{store}/"
    versions = chain((path.removeprefix(prefix) for path in files if path.startswith(prefix)), version)
    kept, missing = list(versions.files), list(versions.missing)
    for name in versions.files:
        if name.endswith(".zip") and files[prefix + name]:
            for path, size in _referred(read(prefix + name), prefix + name).items():
                (kept if files.get(prefix + path) == size else missing).append(path)
    return Chain(tuple(kept), tuple(missing))


def _referred(content: bytes, where: str) -> dict[str, int]:
    """Return the files, with sizes in bytes, that the metadata of a RocksDB checkpoint refers to (RocksDBCheckpointMetadata)."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _, _, text = archive.read("metadata").decode().partition("\n")  # the first line is the form's version
        said = json.loads(text)
        tables = {f"SSTs/{each['dfsSstFileName']}": int(each["sizeBytes"]) for each in said["sstFiles"]}
        return tables | {
            f"logs/{each['dfsLogFileName']}": int(each["sizeBytes"]) for each in said.get("logFiles") or []
        }
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is no RocksDB checkpoint: {error}") from error
