"""One session of a stack: the sessions of its runs, whose models are trained as one."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

from data import Dataset
from runner.outcome import reason_of
from runner.run import EPOCH_SAVE_SECONDS, Session, built, opened
from runner.signals import Interrupted, StopSignals
from runner.stack.grouping import name_of
from runner.stack.loop import StackedLoop
from runner.storage import checkpoint
from runner.storage.directory import Run
from runner.storage.lock import Busy, locked
from runner.storage.status import Status
from runner.training.build import Components
from runner.training.loop import Diverged, Loop


def train_stack(runs: Sequence[Run], stream: TextIO | None = None) -> None:
    """Train the runs of a stack, from their checkpoints if they have any of one step.

    A run that cannot be built or resumed, or that another process trains, is left out, and its result tells.

    Args:
        runs: of checked configs that differ in numbers alone, in the order of their places; one that has ended holds
            its place and is not trained.
        stream: where lines are printed; the logs keep them, too (null: the standard output).

    Raises:
        Interrupted: after a signal, with the states saved.
    """
    with StopSignals() as signals, ExitStack() as open_things:
        datasets: dict[str, Dataset] = {}
        prepared = {run: found for run in runs if (found := _prepared(run, datasets, open_things))}
        waiting = [run for run in prepared if not run.needs_no_training]
        _align(waiting)
        sessions: dict[int, Session] = {}
        loops: list[Loop] = []
        for run, (components, lines) in prepared.items():
            if run not in waiting:
                loops.append(Loop(components, run.config))
                continue
            with _ending(run):
                session = open_things.enter_context(opened(run, components, lines, signals, stream))
                sessions[len(loops)] = session
                loops.append(session.loop)
        if sessions:
            _StackSession(sessions, loops, signals).train()


def _prepared(run: Run, datasets: dict[str, Dataset], open_things: ExitStack) -> tuple[Components, list[str]] | None:
    """Return the components of a run whose directory is held now, unless it has ended; None if that cannot be.

    Runs of the same data share one copy, kept in `datasets`.
    """
    with _ending(run):
        if not run.needs_no_training:
            open_things.enter_context(locked(run.path))
        node = repr(run.config["data"])
        components, lines = built(run, datasets.get(node))
        datasets[node] = components.dataset
        return components, lines
    return None


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    try:
        yield
    except Busy as busy:
        print(busy, file=sys.stderr, flush=True)
    except Exception as error:
        with suppress(OSError):  # the disk is full: it cannot be recorded
            run.path.mkdir(parents=True, exist_ok=True)
            with run.log.open("a") as log:  # stderr is the log of another run of the stack
                traceback.print_exc(file=log)
        with suppress(OSError):
            if not run.needs_no_training:
                run.write_end(Status.FAILED, reason_of(error, run))


def _align(runs: Sequence[Run]) -> None:
    """Leave in the directories of some runs no checkpoint of a later step than the newest that all have.

    They are written one after the other, so that a kill leaves some ahead of the others.
    """
    steps = [set() if run.config["force"] and run.has_ended else set(checkpoint.sound_steps(run.path)) for run in runs]
    common = max(set.intersection(*steps), default=-1) if steps else -1
    for run in runs:
        checkpoint.remove_later(run.path, common, kind="checkpoint")


class _StackSession:
    """One session of a stack. What ends one of its runs, a divergence or a full disk, leaves the others alone.

    Args:
        sessions: of the runs to train, by their places.
        loops: of all models, in the order of their places.
        signals: that end the session.
    """

    def __init__(self, sessions: dict[int, Session], loops: Sequence[Loop], signals: StopSignals) -> None:
        self.sessions, self.signals = sessions, signals
        name = name_of(loop.config for loop in loops)
        for session in sessions.values():
            session.stack = {"stack": name, "stack_size": len(loops)}
        self.loop = StackedLoop(loops, ended=set(range(len(loops))) - set(sessions))
        self.config = next(iter(sessions.values())).config
        self.save_seconds = min(len(sessions) * EPOCH_SAVE_SECONDS, self.config["checkpoint_seconds"])
        self.saved = time.monotonic()

    def train(self) -> None:
        """Train to the end, or as far as it goes."""
        try:
            self.each(lambda session, _: session.begin())
            while self.sessions and self.loop.epoch < self.config["epochs"]:
                self.train_epoch()
            self.each(lambda session, _: session.finish(Status.DONE))
        except Exception as error:
            with suppress(Exception):  # the device may not answer any more
                self.loop.check_finite()
                self.end_diverged()
            for number in [*self.sessions]:
                self.end(number, error)
            raise

    def train_epoch(self) -> None:
        """Train one epoch, then evaluate and save the models if that is due."""
        began = time.perf_counter()
        self.loop.run_epoch(self.before_step)
        is_evaluated = any(session.is_evaluated(self.loop.epoch) for session in self.sessions.values())
        means = self.loop.read_means() if is_evaluated else None
        seconds = time.perf_counter() - began
        for session in self.sessions.values():
            session.training_seconds += seconds
        self.end_diverged()
        if means is not None:
            self.loop.scatter()
            self.each(lambda session, number: session.evaluate({name: each[number] for name, each in means.items()}))
        if time.monotonic() - self.saved > self.save_seconds or self.loop.epoch == self.config["epochs"]:
            self.save()

    def before_step(self) -> None:
        """Handle signals, and checkpoint when due; as `Session.before_step` does."""
        stopping = self.signals.received is not None
        if stopping or time.monotonic() - self.saved > self.config["checkpoint_seconds"]:
            self.save()
        if stopping:
            self.signals.check(lambda: self.each(lambda session, _: session.hand_over()))

    def save(self) -> None:
        """Save the states of all models, of one step."""
        self.loop.scatter()
        self.end_diverged()
        self.each(lambda session, _: session.save())
        self.saved = time.monotonic()

    def end_diverged(self) -> None:
        """Record the ends of those models that have diverged."""
        for number in [number for number in self.loop.diverged if number in self.sessions]:
            self.end(number, self.loop.diverged[number])

    def each(self, action: Callable[[Session, int], Any]) -> None:
        """Do something in each session; an error ends that one alone."""
        for number, session in [*self.sessions.items()]:
            try:
                action(session, number)
            except Interrupted:
                raise
            except Exception as error:
                self.end(number, error)

    def end(self, number: int, error: Exception) -> None:
        """Record that an error has ended a session; its model is trained no more."""
        self.loop.is_active[number] = False
        session = self.sessions.pop(number)
        if number not in self.loop.diverged:  # whose place is where it diverged
            session.loop.epoch, session.loop.batch = self.loop.epoch, self.loop.batch
        if not isinstance(error, Diverged | Interrupted):
            session.stack = {}  # its next session is its own
        with suppress(OSError):  # the disk is full: it cannot be recorded
            session.record_end(error)
