"""The pipeline printed in docs/howto/add-a-pipeline.md: `python -m tests.support.howto FOLDER` writes its files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "add-a-pipeline.md"
FILES = ("pipelines/fridges.yaml", "spark_jobs/fridges.py", "readings.ndjson")


def printed(name: str) -> str:
    """Return the code block under a file's name on the page."""
    block = re.search(rf"`{re.escape(name)}`\n+```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block, f"the page prints no {name}"
    return block[1]


def write(folder: Path) -> None:
    """Write the files into a folder."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(printed(name))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
