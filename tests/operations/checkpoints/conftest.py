from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(params=["a folder", "an object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A storage root on a disk, and one in fsspec's memory: no renames of folders, no local paths."""
    if request.param == "a folder":
        yield str(tmp_path / "storage")
        return
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)
