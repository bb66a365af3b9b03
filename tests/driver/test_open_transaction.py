"""A start over a checkpoint that an earlier release has left behind the beginning of an open transaction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.contract.exit_codes import Exit
from headrace.driver import open_transactions
from headrace.errors import HeadraceError
from headrace.store import generation


def started(root: Path, stable: int, written: int) -> None:
    begun = generation.begin(str(root), "p", "q", {})
    checkpoint = begun.paths(str(root)).checkpoint
    folder = Path(checkpoint) / "offsets"
    folder.mkdir(parents=True)
    (folder / "0").write_text('v1\n{"batchWatermarkMs":0}\n{"pos":{"0":9}}\n')
    ends = {True: {"pos": {0: stable}}, False: {"pos": {0: written}}}
    groups: Any = SimpleNamespace(end_offsets=lambda _, committed=True: ends[committed])
    open_transactions.require_ended(groups, [checkpoint])


def test_a_start_behind_an_open_transaction_waits_for_its_end_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        HeadraceError, match=r"pos/0 was read up to offset 9, but a transaction that began at 5"
    ) as refused:
        started(tmp_path, stable=5, written=12)
    assert refused.value.exit_code == Exit.TRANSIENT


@pytest.mark.parametrize(("stable", "written"), [(9, 9), (12, 12), (4, 4)])
def test_a_start_elsewhere_is_let_through(tmp_path: Path, stable: int, written: int) -> None:
    started(tmp_path, stable, written)
