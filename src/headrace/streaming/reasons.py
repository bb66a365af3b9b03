"""Why a query ended, in one line, out of the hundreds that Spark, Py4J and Java print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

LENGTH = 500

_STEP = re.compile(r"^[\w.]*SinkError: (.+)$", re.MULTILINE)
_JAVA = re.compile(r"^(?:Caused by: |: )(?:[\w$]+\.)*([\w$]+(?:Exception|Error)(?:: .+)?)$", re.MULTILINE)
_PYTHON = re.compile(r"^(?:\w+\.)*(\w+(?:Exception|Error): .+)$", re.MULTILINE)


class SinkError(RuntimeError):
    """A sink that a batch could not be written to, with the first cause; one line."""


@contextmanager
def writing(sink: str) -> Iterator[None]:
    """Tell which sink it was if what is inside raises."""
    try:
        yield
    except Exception as error:
        raise SinkError(f"{sink} was not written: {reason_of(error)}") from error


def reason_of(error: object) -> str:
    """Return the first cause that an error's text tells, at most 500 characters: the sink's, else Java's, else Python's."""
    text = str(error)
    for pattern in (_STEP, _JAVA, _PYTHON):
        found: list[str] = pattern.findall(text)
        if found:
            return found[-1][:LENGTH]
    return (text.splitlines() or [""])[0][:LENGTH]
