"""One run, from a checked config to its result: build, train, evaluate, record, save."""

from __future__ import annotations

import copy
import math
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TextIO

import torch

from data import Dataset
from losses.passes import TorchDraws
from runner.console import Console, summary_lines
from runner.evaluation.evaluate import Evaluation
from runner.evaluation.plan import Plan
from runner.evaluation.predictor import facts_of
from runner.outcome import reason_of, remedy_of, uv_prefix
from runner.recording.recorder import Recorder
from runner.signals import Interrupted, StopSignals
from runner.storage import checkpoint, weights
from runner.storage.atomic import remove_stale_temporaries
from runner.storage.directory import Run
from runner.storage.lock import locked
from runner.storage.provenance import provenance
from runner.storage.status import FINISHED, Status
from runner.summary.settings import changed, group_name
from runner.system import cores, importing_much, keep_freed_memory
from runner.training.build import Components, build
from runner.training.loop import Diverged, Loop
from runner.training.metrics import (
    best_of,
    evaluations_of,
    gradient_ratios,
    monitor_of,
    numbers_of,
    probed,
    values_of_proximal_penalties,
    warning_of_chance,
)

LEAST_LOSS = 1e-8  # of the histogram of their logarithms: cross-entropy in fp32 is 0 or above it
EPOCH_SAVE_SECONDS = 1.0  # least time between the checkpoints of two epochs: some epochs last a millisecond


def train_run(run: Run, stream: TextIO | None = None) -> dict[str, Any]:
    """Train a run, from its checkpoint if it has one, and return the result.

    Args:
        run: of a checked config.
        stream: where lines are printed; the log keeps them, too (null: the standard output).

    Raises:
        ConfigError: if the components do not fit; nothing is written then.
        Busy: if another process works in the directory.
        Interrupted: after a signal, with the state saved.
    """
    components, lines = built(run)
    with locked(run.path), StopSignals() as signals:
        if run.is_finished:  # another process was faster
            return run.result()
        with opened(run, components, lines, signals, stream) as session:
            return session.train()


def built(run: Run, dataset: Dataset | None = None) -> tuple[Components, list[str]]:
    """Return the components of a run, whose data may be at hand, and lines that tell of them."""
    torch.set_num_threads(run.config["threads"] or threads_given())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        components = build(run.config, dataset, partial(weights.start_from, run.config["init_from"]))
    keep_freed_memory()
    line, facts = f"device {components.device}, {torch.get_num_threads()} threads", components.dataset.facts
    told = [*facts.warnings, *(str(warning.message) for warning in caught)]
    return components, [line, *facts.lines, *(f"warning: {sentence}" for sentence in told)]


@contextmanager
def opened(
    run: Run, components: Components, lines: Sequence[str], signals: StopSignals, stream: TextIO | None
) -> Iterator[Session]:
    """Open a session of a run, whose directory is held, with its log and its record; close them at the end."""
    console = Console(stream)
    console.open_log(run.log)
    for line in (run.announcement, *lines):
        console.say(line)
    try:
        session = Session(run, components, console, signals)
        try:
            yield session
        finally:
            with suppress(OSError):  # of what was recorded last: the error that ended the run is already reported
                session.recorder.close()
    finally:
        console.close()


def threads_given() -> int:
    """Return this process's share of the cores: what a launcher says by OMP_NUM_THREADS, or all there are."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else cores()


class Session:
    """One session of a run; an interrupted run takes several.

    Beside the loop's state it keeps the history (a row of numbers for each recorded epoch), the best row, and
    the seconds spent, so that a resumed run ends with the same record as an undisturbed one. The weights of the best
    epoch are kept in memory until the next save, and then in a file of their own.
    """

    def __init__(self, run: Run, components: Components, console: Console, signals: StopSignals) -> None:
        self.run, self.components, self.console, self.signals = run, components, console, signals
        self.config = run.config
        self.loop = Loop(components, self.config)
        self.plan = Plan(components.dataset, self.config)
        self.monitor = monitor_of(components.dataset)
        self.history: list[dict[str, float]] = []
        self.predictor = facts_of(components.dataset, components.channels_last)
        self.best_state: dict[str, Any] | None = None  # not saved yet
        self.seconds = self.training_seconds = 0.0  # of earlier sessions; of training alone
        self.stack: dict[str, Any] = {}  # with how many others it is trained, for the record
        self.began = self.saved = time.monotonic()
        resume_at = self.restore()
        hparams = changed(self.config)
        group = group_name(hparams, run.group_id)
        self.recorder = Recorder(run.path, hparams=hparams, group=group, resume_at=resume_at, history=self.history)

    def train(self) -> dict[str, Any]:
        """Train to the end, or as far as it goes, and return the result, which says how it ended."""
        try:
            self.begin()
            self.train_epochs()
            return self.finish(Status.DONE)
        except Exception as error:
            cause = self.divergence_before(error) or error
            result = self.record_end(cause)
            if isinstance(cause, Diverged):
                return result
            raise

    def divergence_before(self, error: Exception) -> Diverged | None:
        """Return the divergence that an error follows from, which was not found yet, if there is one."""
        try:
            if not isinstance(error, Diverged | Interrupted):
                self.loop.check_finite()
        except Diverged as divergence:
            return divergence
        except Exception:  # the device does not answer any more
            return None
        return None

    def record_end(self, error: Exception) -> dict[str, Any]:
        """Record that an error has ended the session, and return the result; a divergence is one, too."""
        if isinstance(error, Diverged):
            facts = {"diverged_at_step": error.step, "last_finite_objective": error.last_finite}
            remedy = remedy_of(self.config, self.components.terms, has_moved=math.isfinite(error.last_finite))
            return self.finish(Status.DIVERGED, reason=f"{error}: {remedy}", **facts)
        if isinstance(error, Interrupted):
            return self.write(Status.INTERRUPTED, reason=str(error))
        self.console.note("".join(traceback.format_exception(error)))
        return self.finish(Status.FAILED, reason=reason_of(error, self.run))

    def begin(self) -> None:
        """Record what is to be trained and, before the first step, what the initialisation does."""
        self.run.write_config()
        self.write(Status.RUNNING)
        if self.plan.sentence:
            self.console.say(self.plan.sentence)
        if self.steps == 0 and not self.history and self.is_evaluated(0):
            with TorchDraws(self.components.device).replayed():  # training draws as if nothing had been evaluated
                self.evaluate({})

    def train_epochs(self) -> None:
        """Train the epochs that are left, evaluating and saving in between."""
        epochs = self.config["epochs"]
        while self.loop.epoch < epochs:
            began = time.perf_counter()
            self.loop.run_epoch(self.before_step)
            means = self.loop.read_means() if self.is_evaluated(self.loop.epoch) else None
            self.training_seconds += time.perf_counter() - began
            if means is not None:
                self.evaluate(means)
            if time.monotonic() - self.saved > EPOCH_SAVE_SECONDS or self.loop.epoch == epochs:
                self.save()

    def before_step(self) -> None:
        """Handle signals, checkpoint when due, update the bar.

        Called before each step, never after an epoch's last one: a checkpoint there would lack the epoch's metrics.
        """
        stopping = self.signals.received is not None
        if stopping or time.monotonic() - self.saved > self.config["checkpoint_seconds"]:
            self.save()
        if stopping:
            self.signals.check(self.hand_over)
        done = self.loop.epoch + self.loop.batch / self.loop.steps_per_epoch
        self.console.progress(done, self.config["epochs"], self.history[-1] if self.history else {})

    def is_evaluated(self, epoch: int) -> bool:
        """Tell whether an epoch ends in an evaluation; the last one always does."""
        return self.plan.is_row(epoch)

    def evaluate(self, means: dict[str, float]) -> None:
        """Evaluate what the plan says, and record the numbers, histograms and pictures."""
        epoch, components = self.loop.epoch, self.components
        evaluations = evaluations_of(components, self.plan.splits(epoch))
        row: dict[str, float] = {"epoch": epoch, **means, **numbers_of(evaluations)}
        row |= values_of_proximal_penalties(components)
        if self.plan.is_whole(epoch):
            row |= self.plan.facts(epoch)
            row |= gradient_ratios(components, self.config, epoch)
        if epoch == self.config["epochs"] or (epoch == 0 and math.isfinite(row["train/loss"])):
            numbers, tensors = probed(components, self.config["seed"])
            row |= numbers
            for tag, tensor in tensors.items():
                self.recorder.record_histogram(epoch, tag, tensor)
        row["optimizer/lr"] = components.optimizer.param_groups[0]["lr"]
        if epoch:
            row["time/examples_per_second"] = self.examples_per_second
        self.history.append(row)
        self.recorder.record_best(epoch, self.best)
        if self.best.get("epoch") == epoch and math.isfinite(row[self.monitor]):
            self.best_state = {"epoch": epoch, "model": copy.deepcopy(components.model.state_dict())}
        self.recorder.record_scalars(epoch, {tag: value for tag, value in row.items() if tag != "epoch"})
        if self.plan.is_drawn(epoch):
            self.draw(evaluations)
        if epoch == 0:
            return  # the console, the result and the best epoch are about trained models
        self.console.epoch(epoch, self.config["epochs"], row)
        if epoch < self.config["epochs"]:
            self.write(Status.RUNNING)
        if not math.isfinite(row.get("train/loss", 0.0)) and self.config["on_nan"] == "stop":
            raise Diverged(self.steps, self.loop.last_finite)  # the last step did it: its objective was finite

    def draw(self, evaluations: dict[str, Evaluation]) -> None:
        """Record what is not a number: histograms and pictures."""
        epoch, dataset = self.loop.epoch, self.components.dataset
        if self.config["histograms"]:
            for name, evaluation in evaluations.items():
                self.record_losses(name, evaluation.losses)
            self.recorder.record_layers(epoch, self.components.model)
        if self.config["pictures"] and epoch:  # of an untrained model they show nothing
            with importing_much("matplotlib.figure"):  # late: it takes as long as all the rest of the runner
                from runner.recording import pictures

            for tag, figure in pictures.figures_of(self.components.model, dataset, evaluations["test"]).items():
                if figure is not None:
                    self.recorder.record_figure(epoch, tag, figure)

    def record_losses(self, split: str, losses: torch.Tensor) -> None:
        """Record a histogram of the losses per example, and one of their logarithms: most are far below the largest."""
        self.recorder.record_histogram(self.loop.epoch, f"losses/{split}", losses)
        if (losses >= 0).all():
            logarithms = losses.clamp(min=LEAST_LOSS).log10()
            self.recorder.record_histogram(self.loop.epoch, f"losses/{split}/log10", logarithms)

    @property
    def latest(self) -> dict[str, float]:
        """The newest row with an evaluation of all splits; empty before that of the first trained model."""
        whole = (row for row in reversed(self.history) if row["epoch"] and "test/loss" in row)
        return next(whole, {})

    @property
    def best(self) -> dict[str, float]:
        return best_of([row for row in self.history if row["epoch"]], self.monitor)

    @property
    def steps(self) -> int:
        return self.loop.steps_done

    @property
    def examples_per_second(self) -> float:
        examples = self.loop.epoch * len(self.components.dataset.train)
        return examples / self.training_seconds if self.training_seconds else 0.0

    def restore(self) -> int | None:
        """Load the newest sound checkpoint and return its epoch, or None to start from the beginning."""
        remove_stale_temporaries(self.run.path)
        if self.config["force"] and self.run.has_ended:  # an interrupted run goes on, also under a launcher
            for path in checkpoint.checkpoints(self.run.path):
                path.unlink()
        state = checkpoint.load(self.run.path)
        checkpoint.remove_later(self.run.path, state["loop"]["epoch"] if state else 0, kind="best")
        if state is None:
            return None
        if state["threads"] != torch.get_num_threads():
            self.console.say(
                f"warning: resumed with {torch.get_num_threads()} threads after {state['threads']}: "
                "the last bits of the result may differ"
            )
        before, device = state["loop"]["device"], self.components.device.type
        if before != device:
            self.console.say(
                f"warning: resumed on {device} after {before}: the result is not the one of either device alone"
            )
        self.loop.load_state_dict(state["loop"])
        self.history = state["history"]
        self.seconds, self.training_seconds = state["seconds"], state["training_seconds"]
        self.console.say(f"resumed at epoch {self.loop.epoch}, step {self.loop.batch} of it")
        return self.loop.epoch

    def hand_over(self) -> None:
        """Record that the saved run is left to the launcher, which will kill it and start it again."""
        self.write(Status.INTERRUPTED, reason="the launcher's signal")

    def save(self) -> None:
        """Save everything that an undisturbed continuation needs; the best weights first, to which it belongs."""
        state = {
            "loop": self.loop.state_dict(),
            "history": self.history,
            "predictor": self.predictor,
            "seconds": self.seconds + time.monotonic() - self.began,
            "training_seconds": self.training_seconds,
            "threads": torch.get_num_threads(),
        }
        self.save_best()
        checkpoint.save(self.run.path, state, step=self.steps)
        self.saved = time.monotonic()

    def save_best(self) -> None:
        """Save the weights of the best epoch, unless they are saved."""
        if self.best_state is not None:
            state = {**self.best_state, "predictor": self.predictor}
            checkpoint.save(self.run.path, state, step=state["epoch"], kind="best")
            self.best_state = None

    def complete_best(self) -> None:
        """Evaluate the weights of the best epoch on all splits in full, if they were not when it ended.

        For the result alone: metrics.csv has the same epochs for all seeds.
        """
        row = next((row for row in self.history if row["epoch"] == self.best.get("epoch")), None)
        if row is None or self.plan.is_complete(row):
            return
        state = self.best_state or checkpoint.load(self.run.path, kind="best")
        if state is None or state["epoch"] != row["epoch"]:  # damaged, and reported in the log
            return
        model = self.components.model
        trained = copy.deepcopy(model.state_dict())
        model.load_state_dict(state["model"])
        row |= numbers_of(evaluations_of(self.components, self.plan.all_splits)) | self.plan.facts(self.plan.epochs)
        model.load_state_dict(trained)
        self.recorder.record_best(self.loop.epoch, self.best)

    def finish(self, status: str, **facts: Any) -> dict[str, Any]:
        """Write the final result, print it, and return it."""
        if status == Status.DONE and (warning := warning_of_chance(self.components, self.config, self.latest)):
            facts["warning"] = warning
            self.console.say(f"warning: {warning}")
        if status in FINISHED:
            self.complete_best()
            self.save_best()
        if status == Status.DONE:
            facts["weights_sha256"] = weights.digest_of(self.components.model.state_dict())
        result = self.write(status, **facts)
        self.recorder.finish(status)
        if status == Status.DONE:
            for line in summary_lines(result, self.run.path, uv_prefix()):
                self.console.say(line)
        else:
            self.console.say(f"{status}: {facts['reason']}; log in {self.run.log}")
        return result

    def write(self, status: str, **facts: Any) -> dict[str, Any]:
        """Write and return the result as far as it is known."""
        numbers = {key: value for key, value in self.latest.items() if key != "epoch"}
        result = {
            "status": status,
            **facts,
            "epoch": self.loop.epoch,
            "epochs": self.config["epochs"],
            "seed": self.config["seed"],
            "data_seed": self.config["data"]["seed"],
            "data": self.components.dataset.facts.record,
            **numbers,
            **{f"best/{key}": value for key, value in self.best.items()},
            "best/by": self.monitor,
            "seconds": self.seconds + time.monotonic() - self.began,
            "examples_per_second": self.examples_per_second,
            **self.stack,
            **provenance(self.components.device),
        }
        return self.run.write_result(result)
