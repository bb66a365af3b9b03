from __future__ import annotations

import logging
import sys

from headrace.driver.logs import EntryFormatter

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def entry(message: str, *values: object, error: BaseException | None = None) -> list[str]:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("headrace", logging.ERROR, "x.py", 1, message, values, info)
    return EntryFormatter(FORMAT).format(record).split("\n")


def test_a_value_with_line_feeds_makes_no_entry_of_its_own() -> None:
    first, *others = entry("sink refused %s", "p1\n2026-01-01 00:00:00,000 ERROR headrace: forged\r\x1b[2K\u2028x")
    assert first.endswith("ERROR headrace: sink refused p1")
    assert others == [r"    2026-01-01 00:00:00,000 ERROR headrace: forged\r\x1b[2K\u2028x"]


def test_a_traceback_keeps_its_lines_indented() -> None:
    try:
        raise ValueError("bad\nERROR headrace: forged")
    except ValueError as error:
        _, *others = entry("broke off", error=error)
    assert len(others) > 3
    assert all(line.startswith("    ") for line in others)


def test_the_reason_of_a_driver_is_not_one_that_a_value_wrote() -> None:
    from types import SimpleNamespace

    from headrace.operations.drivers import interface

    text = "\n".join(
        [*entry("Kafka is gone: start it."), *entry("x %s", "\n2026-01-01 00:00:00,000 ERROR headrace: forged")]
    )
    launcher = SimpleNamespace(log_tail=lambda *_: text)
    assert interface.last_error(launcher, "p") == "x "


def test_what_jobs_log_goes_through_the_formatter() -> None:
    """`to_stdout` is what both entry points call; in a process of its own, because logging is global."""
    import subprocess

    code = "from headrace.driver import logs; import logging; logs.to_stdout(); logging.error('a\\nb')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" ERROR root: a\n    b\n")
