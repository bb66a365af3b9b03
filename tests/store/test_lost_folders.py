"""A lost folder of checkpoints is no first start: its rows are in the sinks (AB5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.operations.checkpoints import snapshots
from headrace.store import lost_folders, trees
from tests.support import checkpoints

POS = checkpoints.pos_sales()
NONE: frozenset[str] = frozenset()


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


def test_a_pipeline_that_never_ran_and_one_with_a_new_query_may_start(root: str) -> None:
    lost_folders.refuse(root, POS, NONE)
    checkpoints.archived(root)
    checkpoints.begin(root, "archive_pos", stateful=False)
    lost_folders.refuse(root, POS, NONE)


def test_a_pipeline_whose_checkpoints_are_gone_is_refused_until_an_operator_says_what_becomes_of_its_rows(
    root: str,
) -> None:
    checkpoints.begin(root, "archive_pos", stateful=False)
    for query in POS.queries:
        checkpoints.begin(root, query)
    checkpoints.archived(root)
    lost_folders.refuse(root, POS, NONE)
    trees.remove(f"{root}/checkpoints/pos_sales")
    with pytest.raises(HeadraceError, match=r"has run before \(the archive of pos has records\)") as refused:
        lost_folders.refuse(root, POS, NONE)
    assert refused.value.exit_code == Exit.DAMAGED
    assert "headrace stream start pos_sales --new-generation all --rows keep; or --rows empty" in str(refused.value)
    lost_folders.refuse(root, POS, frozenset(POS.queries))


def test_a_query_whose_folder_is_gone_is_known_by_its_snapshot(root: str) -> None:
    made = checkpoints.begin(root)
    checkpoints.run(root, made, range(3))
    snapshots.take(root, "pos_sales", "tumbling")
    trees.remove(f"{root}/checkpoints/pos_sales/tumbling")
    with pytest.raises(HeadraceError, match=r"pos_sales\.tumbling has run before \(it has a snapshot\)"):
        lost_folders.refuse(root, POS, NONE)
