"""Poll for a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

Answer = TypeVar("Answer")


def poll(ask: Callable[[], Answer], seconds: float, every: float, enough: Callable[[Answer], object] = bool) -> Answer:
    """Call `ask` at once and every `every` seconds. Return the first answer that is `enough`, or the first after `seconds`."""
    asking = Retrying(
        stop=stop_after_delay(seconds),
        wait=wait_fixed(every),
        retry=retry_if_result(lambda answer: not enough(answer)),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    return asking(ask)
