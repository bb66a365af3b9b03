"""A platform for each file of this folder that asks for one: their tests kill it."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from headrace.local import platform
from headrace.local.settings import Settings
from tests.support.platform import local_settings
from tests.support.servers import Watch, is_of


@pytest.fixture(scope="module")
def first_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, set[bytes]]]:
    """A platform in a folder with a blank in its name, and what was seen while it came up from nothing."""
    settings = local_settings(tmp_path_factory.mktemp("platform") / "a home")
    with Watch() as watch:
        platform.up(settings)
    yield settings, watch.texts
    platform.down(settings)
    left = [process.pid for process in psutil.process_iter() if is_of(process, settings)]
    assert left == []


@pytest.fixture
def settings(first_up: tuple[Settings, set[bytes]]) -> Settings:
    """A platform that runs, whatever the test before did to it."""
    platform.up(first_up[0])
    return first_up[0]
