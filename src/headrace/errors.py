"""The only exception type that users see: a message that says what is wrong, where, and how to fix it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class HeadraceError(Exception):
    """A fault, described in one message. `exit_code` is the exit code of the command line."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_with(main: Callable[[], int], refused: int | None = None) -> NoReturn:
    """Run `main` and exit with its code; after a HeadraceError print its message and exit with `refused`, or the error's code."""
    try:
        sys.exit(main())
    except HeadraceError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code if refused is None else refused)
