"""Stop in good order: after SIGTERM or Ctrl-C the step ends and the state is saved; a second Ctrl-C exits at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP_CODES = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a process that a signal has stopped


class Interrupted(Exception):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopSignals:
    """Note SIGTERM and SIGINT while the context lasts; `check` raises once one came.

    A signal for which a launcher has a handler of its own (submitit: to have the job queued again) is noted as well;
    `check` calls that handler once the state is saved. It goes before a SIGTERM that came with it: Slurm sends both.
    Only a second Ctrl-C, from a person who does not want to wait, ends the process at once.

    Outside the main thread (some launchers run jobs in threads) Python allows no handlers: signals then act as usual.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT)
    LAUNCHERS = (signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received: int | None = None
        self.interrupted = False  # by Ctrl-C

    def __enter__(self) -> StopSignals:
        self.main = threading.current_thread() is threading.main_thread()
        handled = [number for number in self.LAUNCHERS if callable(signal.getsignal(number))]
        numbers = (*self.NUMBERS, *handled) if self.main else ()
        self.before: dict[int, Any] = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def check(self, hand_over: Callable[[], None]) -> None:
        """If a signal came, raise Interrupted, or hand the run and the signal over to the launcher's handler."""
        if self.received is None:
            return
        handler = self.before[self.received]
        if not callable(handler) or handler is signal.default_int_handler:
            raise Interrupted(self.received)
        number, self.received = self.received, None
        hand_over()
        handler(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.interrupted:
            os._exit(128 + number)
        self.interrupted |= number == signal.SIGINT
        if self.received not in self.LAUNCHERS:
            self.received = number
