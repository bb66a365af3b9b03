"""What a driver and a batch job log: one entry a line, whatever values are in it."""

from __future__ import annotations

import logging
import sys

from headrace.contract.wording import printable


class EntryFormatter(logging.Formatter):
    """Writes an entry so that nothing in it passes for an entry of its own, or acts on a terminal that shows it.

    What follows a line end (a traceback, a value with a line feed) is indented, and entries are not; control characters
    are escapes.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry's text."""
        return printable(super().format(record), keep="\n\t").replace("\n", "\n    ")


def to_stdout() -> None:
    """Send this process's log to its standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(EntryFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("py4j").setLevel(logging.WARNING)
