"""Malformed rows of a file: counted and named, so that one bad row never ends an import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headrace.contract.wording import printable

SHOWN: Final = 10


def named(path: Path) -> str:
    """Return a file's path for a message, with control characters escaped."""
    return printable(str(path))


@dataclass
class OddRows:
    """Malformed rows of a file.

    `refused` counts rows that were sent unchanged and become dead letters, `left` counts rows that were not sent. `named`
    lists the first few of both: the position in the file and the reason, never the content.
    """

    refused: int = 0
    left: int = 0
    named: list[str] = field(default_factory=list)

    def refuse(self, place: str, why: str) -> None:
        """Count a row that is passed on as its original bytes."""
        self.refused += 1
        self._name(f"{place}: {why}")

    def leave(self, place: str, why: str) -> None:
        """Count a row that is not sent."""
        self.left += 1
        self._name(f"{place}: {why}, left out")

    def _name(self, text: str) -> None:
        if len(self.named) < SHOWN:
            self.named.append(text)
