"""How a fault that a check survives is logged."""

from __future__ import annotations

import pytest

from headrace.errors import HeadraceError
from headrace.operations.quality import faults


def test_a_fault_with_a_message_is_logged_in_one_line_and_a_bug_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults.log("The result of kafka.pos was not stored", HeadraceError("No binding at x. Run `headrace up`."))
    faults.log("kafka.pos", ZeroDivisionError("division by zero"))
    fault, bug = caplog.records
    assert (fault.getMessage(), fault.exc_info) == (
        "The result of kafka.pos was not stored: No binding at x. Run `headrace up`.",
        None,
    )
    assert bug.getMessage() == "kafka.pos: ZeroDivisionError: division by zero"
    assert bug.exc_info
