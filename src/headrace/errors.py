"""The one exception that a user sees: a sentence that says what is wrong, where, and the remedy."""


class HeadraceError(Exception):
    """A fault told in one sentence. `exit_code` is what the command line ends with."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
