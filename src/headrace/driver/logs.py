"""Logging of drivers and batch jobs: one entry per line, whatever values it contains."""

from __future__ import annotations

import logging
import sys

from headrace.contract.wording import printable


class EntryFormatter(logging.Formatter):
    """Formats an entry so that no part of it looks like another entry or controls the terminal that shows it.

    Text after a line end (a traceback, a value with a line feed) is indented, which entries never are; control
    characters are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry's text."""
        return printable(super().format(record), keep="\n\t").replace("\n", "\n    ")


def to_stdout() -> None:
    """Send this process's log to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(EntryFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("py4j").setLevel(logging.WARNING)
