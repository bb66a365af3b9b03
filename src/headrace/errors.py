"""The only exception type that users see: a message that says what is wrong, where, and how to fix it."""


class HeadraceError(Exception):
    """A fault, described in one message. `exit_code` is the exit code of the command line."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
