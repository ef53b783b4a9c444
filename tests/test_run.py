"""A single run as a user sees it: lines, files, numbers, exit codes; and what it finds when it is started again."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from support.forked import Forks
from support.records import table, values

from losses import LargeMargin
from runner.config.check import ConfigError
from runner.evaluation.probes import Zeros
from runner.outcome import objective, reason_of, report_stored_result
from runner.storage.directory import Run
from runner.storage.lock import Busy
from runner.storage.provenance import commit
from runner.system import cores

Train = Callable[..., dict[str, Any]]
Command = Callable[..., Any]
SMALL = ("epochs=2", "data.train_size=100", "batch_size=50")
MLP = (*SMALL, "model=mlp", "model.widths=[16]")
BEGINNING = "importing torch, then reading the data\n"
LINE = ("data=line", "model=mlp", "loss=mse", "optimizer=adam", "epochs=3")


def test_a_run_from_the_command_line(command: Command, tmp_path: Path) -> None:
    done = command(*SMALL, "threads=1", "device=cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.pop(0) == BEGINNING.strip()
    found = re.fullmatch(r"run (\w{8}) in (runs/train/.*_\1)", lines[0])
    assert found
    assert "device cpu, 1 threads" in lines
    heads = [line.split("  ")[0] for line in lines[-7:]]
    assert heads == ["error, last", "error, best", "seconds", "examples/s", "directory", "look at it", "in a browser"]
    assert lines[-2].endswith("tensorboard --logdir runs/train")
    assert lines[-1].endswith(f"http://localhost:6006/?smoothing=0&runFilter={found[1]}")
    directory = tmp_path / found[2]
    files = {path.name.split(".tfevents")[0] for path in directory.iterdir() if path.suffix != ".pt"}
    assert files == {".lock", "config.yaml", "overrides.yaml", "train.log", "result.json", "metrics.csv", "events.out"}
    assert {path.name.partition("-")[0] for path in directory.glob("*.pt")} == {"checkpoint", "best"}
    result = json.loads((directory / "result.json").read_text())
    assert {"test/error", "train/loss", "best/validation/error", "status", "run_id", "seconds", "torch"} <= set(result)
    assert {"git_commit", "threads", "device", "seed", "examples_per_second"} <= set(result)
    assert yaml.safe_load((directory / "overrides.yaml").read_text()) == [*SMALL, "threads=1", "device=cpu"]
    assert yaml.safe_load((directory / "config.yaml").read_text())["data"]["train_size"] == 100
    rows = list(csv.DictReader((directory / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[-1]["test/error"]) == result["test/error"]
    assert lines[-7] in (directory / "train.log").read_text()

    again = command(*SMALL, "threads=1")
    assert again.returncode == 0
    assert "trained before on cpu; force=true trains again" in again.stdout
    assert again.stdout.splitlines()[-7:] == lines[-7:]
    assert json.loads((directory / "result.json").read_text()) == result


def test_bad_input_writes_nothing(forks: Forks, tmp_path: Path) -> None:
    assert forks.run("model=cifar10_convnet", "optimizer.lr=0.1") == 2
    assert forks.run("optimizer.groups={fc9: {lr: 0.1}}") == 2
    first, second = forks.said().replace(BEGINNING, "").splitlines()  # no directory is announced
    assert "takes 3x32x32 inputs, got 1x28x28" in first
    assert second.startswith("optimizer: groups must name layers with parameters")
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


PENALTIES_OF_A_USER = """
import torch
from losses import Penalty

class One(Penalty):
    def __call__(self, forward):
        return torch.ones_like(forward.losses)

class Wide(Penalty):
    def __call__(self, forward):
        return forward.outputs

class Weighted(Penalty):
    def __init__(self, *, weight):
        self.weight = weight
    def __call__(self, forward):
        return self.weight * torch.ones_like(forward.losses)
"""


@pytest.fixture
def objective_with(composed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function of the YAML of a user's penalty, and overrides, that returns the objective of step 0 to 2."""
    from runner.training.build import build
    from runner.training.loop import Loop

    (tmp_path / "formulas.py").write_text(PENALTIES_OF_A_USER)
    (tmp_path / "conf" / "penalty").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)

    def objectives(yaml_of_it: str, *overrides: str) -> list[float]:
        (tmp_path / "conf" / "penalty" / "mine.yaml").write_text(yaml_of_it)
        plain = (
            "batch_size=25",
            "epochs=1",
            "optimizer.lr=1e-30",
            "data.validation_size=0",
            "allow_targets=[formulas]",
        )
        directory = composed(*MLP, *plain, "penalty=mine", *overrides, folder=str(tmp_path / "conf"))
        loop = Loop(build(directory.config), directory.config)
        without = Loop(build({**directory.config, "penalty": {}}), directory.config)
        loop.run_epoch()
        without.run_epoch()
        pairs = zip(loop.unchecked, without.unchecked, strict=True)
        return [(one - other).item() for one, other in pairs][:3]

    return objectives


def test_the_coefficient_of_a_penalty_is_the_runners(objective_with: Callable[..., Any]) -> None:
    one = "mine: {_target_: formulas.One}"
    assert objective_with(one) == pytest.approx([1, 1, 1])
    assert objective_with(one, "+penalty.mine.weight=3", "+penalty.mine.every=2") == pytest.approx([6, 0, 6])
    assert objective_with(one, "+penalty.mine.warmup=1") == pytest.approx([0, 0.25, 0.5], abs=1e-6)
    both = "mine: {_target_: formulas.Weighted, weight: 3}"  # which takes the name itself
    assert objective_with(both) == pytest.approx([9, 9, 9])


def test_a_value_that_is_not_one_number_for_each_example_is_refused(objective_with: Callable[..., Any]) -> None:
    sentence = (
        r"penalty\.mine: its value for 2 examples is of shape \(2, 10\): return one number for each example, \(2,\)"
    )
    with pytest.raises(ConfigError, match=sentence):
        objective_with("mine: {_target_: formulas.Wide}")


def test_a_proximal_penalty_takes_no_every(composed: Callable[..., Any]) -> None:
    from runner.training.build import build

    with pytest.raises(ConfigError, match=r"penalty\.l1: every must be 1 for a proximal penalty, got 2"):
        build(composed("penalty=l1", "penalty.l1.every=2").config)


def test_a_run_is_found_again_by_its_config(composed: Callable[..., Any]) -> None:
    first = composed("optimizer.lr=0.3", "penalty=[l2,jacobian]", "penalty.l2.weight=0.5")
    same = composed("penalty=[l2,jacobian]", "penalty.l2.weight=0.50", "optimizer.lr=3e-1", "threads=2", "name=train")
    assert first.path == same.path
    assert "lr=0.3" in first.path.name
    assert first.path.name.startswith("jacobian=0.01,l2=0.5,")
    assert composed("penalty=l2", "penalty.l2.weight=1").path == composed("penalty=l2", "penalty.l2.weight=1.0").path
    assert composed("optimizer.lr=0.2").path != composed("optimizer.lr=0.3").path
    assert composed("seed=1").group_id == composed("seed=2").group_id
    assert composed("seed=1").run_id != composed("seed=2").run_id
    long = composed("model=mlp", f"model.widths=[{','.join(['123'] * 60)}]", "penalty=[l1,l2,jacobian,large_margin]")
    assert len(long.path.name) <= 100


def test_two_at_once_in_one_directory(composed: Callable[..., Any]) -> None:
    from runner.run import train_run

    directory = composed(*MLP, "histograms=false", "pictures=false")
    directory.path.mkdir(parents=True)
    with open(directory.path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another process is training in"):
            train_run(directory)
    assert train_run(directory)["status"] == "done"  # the lock is free again


def test_regression_is_judged_by_its_loss(train: Train) -> None:
    result = train(*LINE)
    assert result["best/by"] == "train/loss"  # five points: nothing is held out
    assert "test/error" not in result
    assert train(*LINE, "data=sine")["best/by"] == "validation/loss"


def test_evaluate_every_does_not_change_training(train: Train) -> None:
    often, never = train(*MLP, "epochs=4"), train(*MLP, "epochs=4", "evaluate_every=0")
    assert often["train/loss"] == never["train/loss"]
    assert often["best/epoch"] <= never["best/epoch"] == 4


def test_epoch_0_is_before_the_first_step(composed: Callable[..., Any]) -> None:
    """And it is in the record alone: neither the result nor the best epoch come from it."""
    from runner.run import train_run
    from runner.training.build import build
    from runner.training.metrics import evaluations_of

    # Each step makes it worse, so that the best epoch would be epoch 0.
    worse = ("optimizer=sgd", "optimizer.lr=1.2", "epochs=2")
    directory = composed(*LINE, *worse, "penalty=l1", "probe=zeros", "histograms=true")
    result = train_run(directory)
    rows = table(directory.path)
    components = build(directory.config)
    expected = evaluations_of(components, {"train": components.dataset.train})["train"].loss
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[0]["train/loss"]) == expected
    assert expected < min(float(row["train/loss"]) for row in rows[1:])
    assert result["best/epoch"] > 0
    assert result["best/train/loss"] == min(float(row["train/loss"]) for row in rows[1:])
    assert float(rows[0]["train/penalty/l1"]) > 0
    assert rows[0]["probe/zeros/all"] == "0.0"
    assert (rows[0]["train/objective"], rows[0]["time/examples_per_second"], rows[1]["probe/zeros/all"]) == ("", "", "")
    recorded = values(directory.path)
    for tag in ("Train/loss", "probe/zeros/all", "losses/train", "losses/train/log10", "weights/fc1", "optimizer/lr"):
        assert recorded[tag][0][0] == 0, tag


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([0.0, 1e-3, 100.0], [-8, -3, 2]), ([-1e-3, 1.0], None), ([float("nan"), 1.0], None)],
)
def test_logarithms_of_losses_where_there_are_any(losses: list[float], expected: list[float] | None) -> None:
    from runner.run import Session

    recorder = Mock()
    Session.record_losses(Mock(recorder=recorder, loop=Mock(epoch=3)), "test", torch.tensor(losses))
    found = {call.args[:2]: call.args[2].tolist() for call in recorder.record_histogram.call_args_list}
    assert found.pop((3, "losses/test")) == pytest.approx(losses, nan_ok=True)
    assert found.get((3, "losses/test/log10")) == (expected and pytest.approx(expected))


def test_without_a_trained_epoch_there_are_no_numbers(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.run import train_run
    from runner.training.loop import Loop

    monkeypatch.setattr(Loop, "step", lambda *_: 1 / 0)
    directory = composed(*LINE)
    with pytest.raises(ZeroDivisionError):
        train_run(directory)
    assert len(table(directory.path)) == 1
    assert not any("loss" in key for key in directory.result())


def test_what_is_drawn_before_the_first_step_shifts_nothing(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(Zeros, "__call__", lambda self, subject: drawn.append(torch.rand(3)) or {})
    line = (*MLP, "model.dropout=0.5")
    assert train(*line, "probe=zeros")["train/objective"] == train(*line)["train/objective"]
    assert len(drawn) == 2


def test_a_run_that_cannot_be_measured_at_first_is_told_by_its_first_step(train: Train) -> None:
    result = train(*MLP, "init=normal", "init.std=1e30", "probe=jacobian_norm")
    assert (result["status"], result["diverged_at_step"]) == ("diverged", 1)


def test_recording_does_not_change_training(composed: Callable[..., Any], train: Train) -> None:
    from runner.run import train_run

    silent = train(*SMALL)
    recorded = train_run(composed(*SMALL, "force=true"))
    assert silent["run_id"] == recorded["run_id"]
    assert silent["train/loss"] == recorded["train/loss"]
    assert silent["train/objective"] == recorded["train/objective"]


def test_proximal_values_and_the_mean_statistics_of_the_epoch_are_reported(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[float] = []
    statistics = LargeMargin.statistics

    def noted(self: LargeMargin, *mean: Any) -> dict[str, Any]:
        found = statistics(self, *mean)
        batches.append(found["at_upper_clamp"].item())
        return found

    monkeypatch.setattr(LargeMargin, "statistics", noted)
    margin = ("penalty.large_margin.gamma=0.3", "penalty.large_margin.norm=2", "penalty.large_margin.scores=logit")
    result = train(*MLP, "optimizer=sgd", "penalty=[l1,large_margin]", "penalty.l1.weight=0.01", *margin)
    assert result["train/penalty/l1"] > 0
    epoch = batches[len(batches) // result["epochs"] * (result["epochs"] - 1) :]
    assert len(set(epoch)) > 1  # else the last batch could stand for all
    assert result["train/penalty/large_margin/at_upper_clamp"] == pytest.approx(sum(epoch) / len(epoch))


def test_one_run_typed_in_two_ways_has_one_directory(composed: Callable[..., Any]) -> None:
    first = composed("optimizer=momentum", "optimizer.lr=0.02")
    first.path.mkdir(parents=True)
    again = composed("optimizer=sgd", "optimizer.lr=0.02", "+optimizer.momentum=0.9")
    assert again.path == first.path
    one, other = (composed(f"penalty=[{names}]").path for names in ("l1,l2", "l2,l1"))
    assert one == other


def test_the_order_of_penalties_changes_no_bit(train: Train) -> None:
    one, other = (train(*MLP, f"penalty=[{names}]", "force=true") for names in ("jacobian,l2", "l2,jacobian"))
    assert one["train/objective"] == other["train/objective"]


def test_other_contents_of_a_data_file_are_another_run(composed: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"

    def directory(value: float, seed: int = 0) -> Run:
        x = np.full((4, 2), value, np.float32)
        np.savez(path, train_images=x, train_labels=np.arange(4), test_images=x, test_labels=np.arange(4))
        return composed("data=npz", f"data.path={path}", "model=mlp", f"seed={seed}")

    first, second, again, seed = directory(1), directory(2), directory(1), directory(1, seed=1)
    assert first.run_id == again.run_id != second.run_id
    assert first.group_id == seed.group_id != second.group_id


@pytest.mark.parametrize("path", ["absent.npz", "."])
def test_a_data_file_that_cannot_be_read_is_told_when_it_is_read(composed: Callable[..., Any], path: str) -> None:
    from runner.training.build import build

    directory = composed("data=npz", f"data.path={path}", "model=mlp")
    with pytest.raises(ConfigError, match=r"data\.path|\.npz|is no sound"):
        build(directory.config)


def test_a_machine_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"
    commit.cache_clear()


@pytest.mark.parametrize(
    ("wanted", "found", "words"),
    [
        ("auto", "cpu", " on cpu"),
        ("cuda", "cpu", " on cpu, and not on cuda"),
        ("cpu", "NVIDIA H200", " on NVIDIA H200, and not on cpu"),
        ("cuda", "NVIDIA H200", " on NVIDIA H200"),
    ],
)
def test_a_stored_result_of_another_device_is_told(
    composed: Callable[..., Any], capsys: pytest.CaptureFixture[str], wanted: str, found: str, words: str
) -> None:
    run = composed(f"device={wanted}")
    run.path.mkdir(parents=True)
    numbers = dict.fromkeys(
        ("test/error", "best/test/error", "best/epoch", "epoch", "seconds", "examples_per_second"), 1
    )
    run.write_result({"status": "done", "device": found, "best/by": "test/error", **numbers})
    report_stored_result(run, trained=False)
    assert capsys.readouterr().out.splitlines()[0] == f"trained before{words}; force=true trains again"


def test_a_folder_that_cannot_be_is_told(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for sweep in ((), ("-m", "seed=0,1")):
        assert forks.run(*sweep, *MLP, "runs_dir=.", "name=file/x") == 2
    one, many = forks.said().replace(BEGINNING, "").splitlines()
    assert many == "runs_dir and name must lead to a folder that can be written, got file/x (Not a directory)"
    assert re.sub("x/[^ ]+", "x", one) == many


def test_cores_where_the_system_does_not_tell_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == os.cpu_count()


def test_training_does_not_need_its_terminal(composed: Callable[..., Any]) -> None:
    from runner.run import train_run

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    assert train_run(composed(*MLP), Closed())["status"] == "done"


def test_probes_see_the_model_in_evaluation_mode(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the value of a proximal penalty, for which it is in training mode again."""
    modes: list[bool] = []
    monkeypatch.setattr(Zeros, "__call__", lambda self, subject: modes.append(subject.model.training) or {})
    train(*MLP, "penalty=l1", "probe=zeros")
    assert modes == [False, False]  # before the first step, and after the last


def test_a_probe_has_the_number_that_is_to_be_minimised(
    composed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Known before the run; asked of a run that is done, it is told, too."""
    from runner.run import train_run

    trained, mistaken = (
        composed(*MLP, "probe=zeros", f"objective_metric=probe/zeros/{n}") for n in ("all", "fc1.wieght")
    )
    with pytest.raises(ConfigError, match=r"objective_metric must be one of probe/zeros/fc1.weight, .*, got 'probe/"):
        train_run(mistaken)
    assert not mistaken.path.exists()
    train_run(trained)
    assert objective(trained) == 0.0
    with pytest.raises(SystemExit) as leaving:
        objective(mistaken)
    assert leaving.value.code == 2
    assert "objective_metric must be one of probe/zeros/fc1.weight, " in capsys.readouterr().err


def test_a_failure_is_recorded_with_its_reason(composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.run import train_run
    from runner.training.loop import Loop

    def broken(self: Loop, *arguments: Any) -> None:
        raise RuntimeError("can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(Loop, "step", broken)
    directory = composed(*MLP)
    with pytest.raises(RuntimeError):
        train_run(directory)
    result = directory.result()
    assert result["status"] == "failed"
    assert "out of memory with batch_size=50: lower it" in result["reason"]
    assert "Traceback" in (directory.path / "train.log").read_text()


def test_the_time_of_earlier_sessions_counts(composed: Callable[..., Any]) -> None:
    from runner.run import train_run
    from runner.storage import checkpoint

    run = composed(*MLP)
    first, state = train_run(run), checkpoint.load(run.path)
    (run.path / "result.json").unlink()  # as after a kill between the last checkpoint and the result
    again = train_run(run)
    assert again["seconds"] > state["seconds"] > 0
    assert again["examples_per_second"] == first["examples_per_second"]


def test_directory_names_have_a_fixed_order(composed: Callable[..., Run]) -> None:
    line = ["model=mlp", "epochs=3", "optimizer.lr=0.2", "seed=3", "penalty=l2", "penalty.l2.weight=0.5", "data=line"]
    run = composed(*line, "loss=mse")
    label = "l2=0.5,seed=3,lr=0.2,model=mlp,data=line,loss=mse,epochs=3"
    assert run.path.name == f"{label}_{run.run_id}"
    assert composed(*reversed(line), "loss=mse").path == run.path


def test_one_config_typed_in_two_ways_is_one_run(composed: Callable[..., Run]) -> None:
    typed = composed("optimizer=sgd", "optimizer.lr=0.02", "+optimizer.momentum=0.9", "loss.weight=1", "epochs=20")
    chosen = composed("optimizer=momentum", "loss.weight=1.0")
    assert (typed.run_id, typed.path) == (chosen.run_id, chosen.path)


def test_only_a_lack_of_memory_is_called_one(composed: Callable[..., Run]) -> None:
    run = composed()
    for error in (
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ):
        assert "lower it" in reason_of(error, run)
    assert reason_of(ValueError("the allocation of classes is wrong"), run).endswith("is wrong")
