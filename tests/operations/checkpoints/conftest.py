from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from headrace.access.bindings import ROOT_VARIABLE
from headrace.access.object_store import SCHEME
from tests.support.objects import BUCKET


@pytest.fixture(
    params=["a folder", "memory", pytest.param("an object store", marks=pytest.mark.long(group="checkpoints"))]
)
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A storage root on a disk, one in fsspec's memory (no renames of folders, no local paths), and one on an S3 API.

    The last takes minutes: its server is Python and checks the signature of each request.
    """
    name = uuid.uuid4().hex
    if request.param == "a folder":
        yield str(tmp_path / "storage")
    elif request.param == "an object store":
        monkeypatch.setenv(ROOT_VARIABLE, str(request.getfixturevalue("object_store")))
        yield f"{SCHEME}{BUCKET}/{name}"
    else:
        yield f"memory://{name}"
        fs = fsspec.filesystem("memory")
        if fs.exists(f"/{name}"):
            fs.rm(f"/{name}", recursive=True)
