"""What is wrong between the gate and the model server: said to the operator, and to no client."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["Trouble"]

log = logging.getLogger("portcullis.gate")
SAME_S, OTHER_S = 60.0, 10.0  # between two lines of the log that say the same, and between any two


class Trouble:
    """Why the model cannot be asked. The log hears of it as rarely as that helps, however many requests fail."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = ""  # what is wrong; empty while the model answers
        self._clock = clock
        self._said, self._said_at = "", -SAME_S
        self._failed = 0  # requests since the last line

    def say(self, sentence: str) -> None:
        """A request could not be answered, because of this."""
        self.now = sentence
        self._failed += 1
        at = self._clock()
        if at - self._said_at >= (SAME_S if sentence == self._said else OTHER_S):
            log.error("%s", sentence, extra={"requests": self._failed})
            self._said, self._said_at, self._failed = sentence, at, 0

    def over(self) -> None:
        """A request was answered."""
        self.now = ""
