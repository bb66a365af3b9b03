"""Shell scripts of the repository: the choice of a long group of tests, and a rule for pipes under `pipefail`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ON_SERVERS = ["airflow", "trust", "platform", "outages", "checkpoints", "chaos"]
# A reader that stops before its input ends. The writer then ends by SIGPIPE (141), which `pipefail` makes the result of the pipe.
STOPS_EARLY = re.compile(r"\|\s*(?:grep\s+(?:-\S+\s+)*-[a-zA-Z]*[qm]|head\b|sed\b[^|]*[0-9;]q\b)")


def _scripts() -> list[Path]:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [ROOT / name for name in files if not name.endswith((".py", ".md", ".gz", ".png", ".jsonl"))]
    return [path for path in texts if path.is_file() and b"pipefail" in path.read_bytes()]


@pytest.mark.parametrize("path", _scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_script_under_pipefail_pipes_into_a_reader_that_stops_early(path: Path) -> None:
    """`groups | grep -q NAME` failed CI, in one run of three: grep ended at its match while `groups` was still writing."""
    lines = path.read_text().splitlines()
    assert [line for line in lines if STOPS_EARLY.search(line.split(" # ")[0])] == []


def test_every_group_that_a_machine_with_a_cluster_lists_can_be_run_each_time(tmp_path: Path) -> None:
    """`echo` stands for pytest: the test is about the script alone. No group on the cluster is run, as it would start one."""
    (tmp_path / "tests").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/pytest").symlink_to(Path("/bin/echo"))
    script = shutil.copy(ROOT / "tests/long", tmp_path / "tests/long")
    cluster = {**os.environ, "TESTCLUSTER": "somewhere"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([script, *words], env=cluster, capture_output=True, text=True)

    listed = run().stdout.split()
    assert listed[: len(ON_SERVERS)] == ON_SERVERS
    assert all(name.startswith("cluster-") for name in listed[len(ON_SERVERS) :])
    for _ in range(20):
        for name in ON_SERVERS:
            chosen = run(name)
            assert (chosen.returncode, chosen.stderr) == (0, "")
            assert f"long(group='{name}')" in chosen.stdout
    refused = run("nope")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"Unknown group 'nope'. Groups that this machine can run: {' '.join(listed)}\n"
