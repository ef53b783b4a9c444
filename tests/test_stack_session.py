"""Runs trained as a stack: each has its own directory, result, record and checkpoint; bad ones, kills, resumption."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch
from support.forked import Forks
from support.records import table, values
from support.states import assert_same, timeless
from support.sweeps import TIMES, TINY, Sweeps

from runner.run import Session, train_run
from runner.stack.loop import StackedLoop
from runner.stack.session import train_stack
from runner.storage import checkpoint
from runner.storage.directory import Run

SMALL = ("data=moons", "data.n=40", "model=mlp", "model.widths=[8]", "batch_size=9", "optimizer=adam", "epochs=4")
QUIET = ("histograms=false", "pictures=false")
SEEDS = range(3)
slow = pytest.mark.slow


@pytest.fixture
def stack_of(composed: Callable[..., Run]) -> Callable[..., list[Run]]:
    """Return a function of overrides that returns the runs of a stack, one for each seed."""

    def made(*overrides: str) -> list[Run]:
        base = composed(*SMALL, *overrides)
        return [Run({**base.config, "seed": seed}) for seed in SEEDS]

    return made


def test_each_run_has_all_that_it_would_have_alone(stack_of: Callable[..., list[Run]]) -> None:
    alone, together = (
        stack_of("penalty=jacobian", "probe=jacobian_norm", "pictures=false", f"name={name}") for name in ("one", "all")
    )
    for run in alone:
        train_run(run)
    train_stack(together)
    for one, other in zip(alone, together, strict=True):
        expected, found = one.result(), other.result()
        assert found.pop("stack_size") == len(SEEDS)
        assert re.fullmatch("[0-9a-f]{8}", found.pop("stack"))
        assert [*found] == [*expected]
        for key in {*expected} - {*TIMES, "weights_sha256", "git_commit"}:
            assert found[key] == (
                pytest.approx(expected[key], rel=1e-3) if isinstance(expected[key], float) else expected[key]
            )
        kinds = [{re.split("[-.]", path.name)[0] for path in run.path.iterdir()} for run in (one, other)]
        assert kinds[1] == kinds[0]
        for row, right in zip(timeless(table(other.path)), timeless(table(one.path)), strict=True):
            assert row.keys() == right.keys()
        assert values(other.path).keys() == values(one.path).keys()
        states = [checkpoint.load(run.path) for run in (one, other)]
        assert states[0]
        assert states[1]
        assert states[1]["loop"].keys() == states[0]["loop"].keys()
        assert states[1]["loop"]["epoch"] == 4
        sizes = [checkpoint.checkpoints(run.path)[0].stat().st_size for run in (one, other)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)  # no other model's numbers in it
    assert len({run.result()["weights_sha256"] for run in together}) == len(SEEDS)


def test_final_errors_agree_within_their_spread_in_float32(composed: Callable[..., Run]) -> None:
    """Twenty seeds, 40 epochs: rounding may take a run elsewhere, but not the mean of them."""
    base = composed(
        "data=moons",
        "data.n=40",
        "model=mlp",
        "model.widths=[8]",
        "optimizer=adam",
        "penalty=jacobian",
        "optimizer.lr=0.01",
        "epochs=40",
        "evaluate_every=0",
        *QUIET,
    )
    ends = []
    for name in ("one", "all"):
        runs = [Run({**base.config, "name": name, "seed": seed}) for seed in range(20)]
        if name == "all":
            train_stack(runs)
        else:
            for run in runs:
                train_run(run)
        ends.append(torch.tensor([[run.result()[key] for key in ("test/loss", "test/error")] for run in runs]))
    (alone, together) = ends
    assert ((together - alone).mean(0).abs() < alone.std(0) / 20**0.5).all()
    assert (alone.std(0) > 0).all()


def test_a_bad_run_ends_alone(stack_of: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    """One raises in an evaluation, one diverges, one cannot be built: the fourth is trained as in any stack."""
    runs = [*stack_of(*QUIET), *stack_of(*QUIET)[:1]]
    runs[3] = Run({**runs[0].config, "seed": 9})
    runs[1].config["optimizer"] = {**runs[1].config["optimizer"], "lr": 1e38}
    runs[2].config["data"] = {**runs[2].config["data"], "train_size": 10_000}
    evaluate = Session.evaluate

    def evaluated(self: Session, means: dict[str, float]) -> None:
        if self.run is runs[0] and self.loop.epoch == 2:
            raise OSError("no room")
        evaluate(self, means)

    monkeypatch.setattr(Session, "evaluate", evaluated)
    train_stack(runs)
    assert [run.status for run in runs] == ["failed", "diverged", "failed", "done"]
    assert runs[0].result()["reason"] == "OSError: no room"
    assert "stack" not in runs[0].result()  # it goes on by itself
    assert "train_size" in runs[2].result()["reason"]
    assert [run.log.read_text().count("Traceback") for run in runs] == [1, 0, 1, 0]
    assert "ConfigError: data: train_size" in runs[2].log.read_text()
    assert runs[1].result()["diverged_at_step"] > 0
    assert runs[3].result()["epoch"] == 4


@pytest.mark.parametrize(("lr", "end"), [(1e38, ("diverged", 1)), (1e-3, ("failed", 3))])
def test_an_error_of_all_is_no_failure_of_one_that_had_diverged(
    stack_of: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch, lr: float, end: tuple[str, int]
) -> None:
    """The error comes in the fourth epoch, before the objectives of any are looked at."""
    runs = stack_of(*QUIET, "evaluate_every=0", "batch_size=40")  # one step an epoch, in an order asked for once
    runs[1].config["optimizer"] = {**runs[1].config["optimizer"], "lr": lr}
    step = StackedLoop.step

    def failing(self: StackedLoop, batches: Any) -> None:
        if self.epoch == 3:
            raise RuntimeError("no room")
        step(self, batches)

    monkeypatch.setattr(StackedLoop, "step", failing)
    with pytest.raises(RuntimeError, match="no room"):
        train_stack(runs)
    found = [(run.result()["status"], run.result()["epoch"]) for run in runs]
    assert found == [("failed", 3), end, ("failed", 3)]


def test_a_run_that_another_process_trains_is_left_out(stack_of: Callable[..., list[Run]]) -> None:
    from runner.storage.lock import locked

    runs = stack_of(*QUIET)
    with locked(runs[1].path):
        train_stack(runs)
    assert [run.status for run in runs] == ["done", None, "done"]


@pytest.mark.parametrize(("epoch_seconds", "seconds", "saves"), [(0, 3600, 4), (1e6, 3600, 1), (1e6, 1e-6, 4 * 4 + 4)])
def test_a_stack_is_saved_after_epochs_and_between_steps_when_due(
    stack_of: Callable[..., list[Run]],
    monkeypatch: pytest.MonkeyPatch,
    epoch_seconds: float,
    seconds: float,
    saves: int,
) -> None:
    """Without these saves a kill would cost all that was trained."""
    saved, save = [], Session.save
    monkeypatch.setattr("runner.stack.session.EPOCH_SAVE_SECONDS", epoch_seconds)
    monkeypatch.setattr(Session, "save", lambda self: (saved.append(self.run.config["seed"]), save(self)))
    train_stack(stack_of(*QUIET, f"checkpoint_seconds={seconds}"))
    assert [saved.count(seed) for seed in SEEDS] == [saves] * len(SEEDS)


@pytest.mark.parametrize(("is_damaged", "again"), [(False, 7), (True, 6)])
def test_a_stack_goes_on_at_the_newest_step_that_all_have(
    stack_of: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch, is_damaged: bool, again: int
) -> None:
    """Two checkpoints are kept of each: the older one is there for a damaged one, and costs a step."""
    runs = stack_of(*QUIET, "checkpoint_seconds=1e-6")
    made, step, failures = [], StackedLoop.step, [7]

    def failing(self: StackedLoop, batches: Any) -> None:
        if self.steps_done in failures:
            failures.clear()
            raise RuntimeError("no room")
        made.append(self.steps_done)
        step(self, batches)

    monkeypatch.setattr(StackedLoop, "step", failing)
    with pytest.raises(RuntimeError, match="no room"):
        train_stack(runs)
    assert [len(checkpoint.checkpoints(run.path)) for run in runs] == [2] * len(SEEDS)
    if is_damaged:
        newest = checkpoint.checkpoints(runs[1].path)[0]
        newest.write_bytes(newest.read_bytes()[:-100])
    train_stack(runs)
    assert made == [*range(7), *range(again, 16)]
    assert [run.status for run in runs] == ["done"] * len(SEEDS)


# --- kills ---

CODE = """
import os, signal, sys
from runner.config.compose import project_composer
from runner.training.loop import Loop
from runner.signals import Interrupted
from runner.stack.loop import StackedLoop
from runner.stack.session import train_stack
from runner.storage import checkpoint
from runner.storage.directory import Run

name, moment, after, forget = sys.argv[1:5]
config = project_composer().compose([f"runs_dir={name}", *sys.argv[5:]]).values
diverging = {**config["optimizer"], "lr": 1e38}
runs = [Run({**config, "seed": seed, **({"optimizer": diverging} if seed == 2 else {})}) for seed in range(4)]
step, save, load, made = StackedLoop.step, checkpoint.save, Loop.load_state_dict, 0

def strike(now):
    global made
    if moment in now:
        made += 1
        if made == int(after):
            os.kill(os.getpid(), signal.SIGTERM if moment == "term" else signal.SIGKILL)

def struck_step(self, batches):
    strike(("step", "term"))
    step(self, batches)

def struck_save(directory, state, **options):
    strike(("saving",))
    return save(directory, state, **options)

def forgetful_load(self, state):
    is_last = self.config["seed"] == 3
    load(self, {**state, **({forget: self.state_dict()[forget]} if is_last and forget in state else {})})

StackedLoop.step, checkpoint.save, Loop.load_state_dict = struck_step, struck_save, forgetful_load
try:
    train_stack(runs)
except Interrupted as interruption:
    sys.exit(interruption.exit_code)
"""
OPTIONS = (
    *SMALL,
    *QUIET,
    "penalty=[jacobian,l1]",
    "penalty.l1.weight=1e-4",
    "threads=1",
    "device=cpu",
    "scheduler=cosine",
)


def kill(forks: Forks, name: str, moment: str = "", after: int = 0, forget: str = "", seconds: float = 1e-6) -> int:
    """Train the stack `name` in a process that a signal may reach, and return its exit code."""
    options = (*OPTIONS, f"checkpoint_seconds={seconds}")
    return forks.wait(forks.python(CODE, name, moment, str(after), forget, *options))


def ends(forks: Forks, name: str) -> dict[str, dict[str, Any]]:
    """Return what must not depend on kills, by run; how far the checkpoint of a diverged one is, does."""
    found = {}
    for path in sorted((forks.folder / name / "train").iterdir()):
        state, result = checkpoint.load(path), json.loads((path / "result.json").read_text())
        kept = {
            "result": {key: value for key, value in result.items() if key not in TIMES},
            "table": timeless(table(path)),
        }
        if result["status"] == "done":
            assert state
            kept |= {
                "loop": state["loop"],
                "history": timeless(state["history"]),
                "best": checkpoint.load(path, "best"),
            }
        found[path.name] = kept
    return found


def assert_as_undisturbed(forks: Forks) -> None:
    whole = ends(forks, "whole")
    assert sorted(end["result"]["status"] for end in whole.values()) == ["diverged", "done", "done", "done"]
    assert_same(ends(forks, "perturbed"), whole)


@pytest.fixture
def whole(forks: Forks) -> Forks:
    """A folder in which the stack has been trained undisturbed."""
    assert kill(forks, "whole", seconds=60) == 0, forks.said()
    return forks


@pytest.mark.parametrize(
    ("moment", "after", "code"),
    [("saving", (10, 27), -9), pytest.param("step", (7, 5), -9, marks=slow), ("term", (9,), 143)],
)
def test_a_killed_stack_ends_as_an_undisturbed_one(
    whole: Forks, moment: str, after: tuple[int, ...], code: int
) -> None:
    """Killed twice, also in the midst of the saves, after which some members are ahead of the others."""
    for count in after:
        assert kill(whole, "perturbed", moment, count) == code, whole.said()
    assert kill(whole, "perturbed") == 0, whole.said()
    logs = [path.read_text() for path in (whole.folder / "perturbed" / "train").glob("*/train.log")]
    assert sum("resumed at epoch" in log for log in logs) >= 3
    assert_as_undisturbed(whole)


@pytest.mark.parametrize("forgotten", ["generator", *(pytest.param(key, marks=slow) for key in ("optimizer", "model"))])
def test_what_one_member_forgets_shows(whole: Forks, forgotten: str) -> None:
    """The negative control: one part of the state of one member is not restored."""
    assert kill(whole, "perturbed", "step", 7) == -9
    assert kill(whole, "perturbed", forget=forgotten) == 0
    with pytest.raises(AssertionError):
        assert_as_undisturbed(whole)


def test_a_member_goes_on_alone(whole: Forks, composed: Callable[..., Run]) -> None:
    """With the numbers that it would have in the stack, up to rounding."""
    assert kill(whole, "perturbed", "step", 7) == -9
    for path, expected in ends(whole, "whole").items():
        directory = whole.folder / "perturbed" / "train" / path
        if expected["result"]["status"] == "done":
            run = composed(*OPTIONS, f"runs_dir={whole.folder / 'perturbed'}", f"seed={expected['result']['seed']}")
            assert run.path == directory
            train_run(run)
            found = ends(whole, "perturbed")[path]
            assert "stack" not in found["result"]
            for name, tensor in expected["loop"]["model"].items():
                assert torch.allclose(found["loop"]["model"][name], tensor, rtol=1e-3, atol=1e-4)


# --- by the command line ---


def test_a_sweep_of_stacks(sweeps: Sweeps) -> None:
    grid = (
        *TINY,
        "hydra/launcher=stacked",
        "epochs=3",
        "optimizer=adam",
        "seed=range(3)",
        "sweep.n_jobs=2",
        "threads=1",
    )
    said = sweeps.run(*grid, "model.dropout=0,0.1")
    assert "stacks: 1 of 3 jobs" in said
    assert "by themselves: 3 jobs; model.dropout draws for all models at once" in said
    assert "[6/6] done" in said
    sizes = [result.get("stack_size") for result in sweeps.results().values()]
    assert sorted(sizes, key=str) == [3, 3, 3, None, None, None]
    assert sweeps.times_trained() == dict.fromkeys(sweeps.results(), 1)
    said = sweeps.run_without_torch(*grid, "model.dropout=0")
    assert "3 of them ended before" in said


def test_a_diverged_run_of_a_stack_is_told_as_any(sweeps: Sweeps) -> None:
    options = (*TINY, "hydra/launcher=stacked", "epochs=20", "optimizer=sgd", "sweep.n_jobs=2", "threads=1")
    said = sweeps.run(*options, "optimizer.lr=0.01,0.02,1e30", code=1)
    assert re.search(r"\[3/3\] done: stack of 2 jobs, optimizer.lr=0.0\d and others  train/loss", said)
    assert "] diverged: optimizer.lr=1" in said
    assert "the objective is not finite at step" in said


def test_a_dead_stack_leaves_results_and_is_resumed_whole(sweeps: Sweeps) -> None:
    """Its process is killed after one run has diverged: that one stays so, the others are failed and go on."""
    options = (
        *TINY,
        "hydra/launcher=stacked",
        "epochs=500",
        "optimizer=sgd",
        "sweep.n_jobs=2",
        "threads=1",
    )
    grid = (*options, "optimizer.lr=0.001,0.002,1e30")
    sweep = sweeps.start(*grid, "checkpoint_seconds=1e-6")  # at each step, so that it takes long
    sweeps.wait_until(lambda: any(result["status"] == "diverged" for result in sweeps.results().values()), sweep)
    sweeps.wait_until(lambda: len(sweeps.paths("train", "checkpoint-*.pt")) > 4, sweep)
    (stack,) = psutil.Process(sweep).children()
    stack.kill()
    code, said = sweeps.wait(sweep)
    assert code == 1
    assert said.count("killed by SIGKILL") >= 2
    assert sorted(result["status"] for result in sweeps.results().values()) == ["diverged", "failed", "failed"]
    said = sweeps.run(*grid, code=1)
    assert "stacks: 1 of 3 jobs" in said
    found = sweeps.results()
    assert sorted(result["status"] for result in found.values()) == ["diverged", "done", "done"]
    logs = [path.read_text() for path in sweeps.paths("train", "train.log")]
    assert sum("resumed at epoch" in log for log in logs) == 2
