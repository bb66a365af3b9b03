"""The reason why a sink could not be read, in one line, for any error."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError, KafkaException

from headrace.contract.wording import first_line, printable
from headrace.errors import HeadraceError

_log = logging.getLogger(__name__)


def log(what: str, error: Exception) -> None:
    """Log a fault that a check survives: one line for a HeadraceError, which says all; any other with its stack."""
    _log.warning("%s: %s", what, words(error), exc_info=None if isinstance(error, HeadraceError) else error)


def words(error: BaseException) -> str:
    """Return the message of a HeadraceError; for another error, its type and first line."""
    if isinstance(error, HeadraceError):
        return printable(str(error))
    if isinstance(error, KafkaException) and isinstance(error.args[0], KafkaError):
        return printable(f"Kafka did not answer ({error.args[0].str()}): see `headrace status`.")
    return printable(f"{type(error).__name__}: {first_line(error)}")
