"""The files of Spark's in-memory (HDFS-backed) state store: which of them a version needs.

`state/<operator>/<partition>/[<store>/]<version>.delta` or `.snapshot`; batch n loads version n and writes n + 1. A
version is the newest snapshot at or below it plus every delta after that (Spark: HDFSBackedStateStoreProvider).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_VERSION = re.compile(r"^(\d+)\.(delta|snapshot)$")
_OTHER_STORE = re.compile(r"^(SSTs|logs)$|\.(zip|changelog|sst)$")
STATE = "state/"


@dataclass(frozen=True)
class Chain:
    """What one store needs to load a version: the files that are there, and the versions that are not."""

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


def other_store(files: Iterable[str]) -> bool:
    """Return whether the state is of another provider (RocksDB), whose files are not known here."""
    return any(_OTHER_STORE.search(part) for path in files if path.startswith(STATE) for part in path.split("/")[3:])


def chain(names: Iterable[str], version: int) -> Chain:
    """Return what loading `version` needs of one store's files; the newest snapshot serves."""
    found = {(int(match[1]), match[2]) for name in names if (match := _VERSION.match(name))}
    snapshot = max((v for v, kind in found if kind == "snapshot" and v <= version), default=0)
    wanted = [(snapshot, "snapshot")] if snapshot else []
    wanted += [(v, "delta") for v in range(snapshot + 1, version + 1)]
    # beside its newest snapshot Spark can also start from an older one: it is not needed where this one is whole
    return Chain(
        tuple(f"{v}.{kind}" for v, kind in wanted if (v, kind) in found),
        tuple(f"{v}.{kind}" for v, kind in wanted if (v, kind) not in found),
    )
