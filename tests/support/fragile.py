"""A driver in which one query fails on request of a test: `LocalLauncher.main` of a test.

The test writes the query's name into the file named by HEADRACE_FALL; the next batch of that query fails once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from headrace.driver import writer
from tests.support import crash

ASKED = Path(os.environ.get("HEADRACE_FALL", "nothing"))


def install() -> None:
    """Wrap the writer."""
    write = writer.Writer.__call__

    def batch(self: writer.Writer, frame: Any, number: int) -> None:
        if ASKED.exists() and ASKED.read_text() == self.generation.query:
            ASKED.rename(ASKED.with_suffix(".fallen"))
            raise RuntimeError("the test let this query fall")
        write(self, frame, number)

    writer.Writer.__call__ = batch  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    sys.exit(crash.run_tree())
