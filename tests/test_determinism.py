"""Same seed, same bits: across processes, in a sweep, whatever is recorded and evaluated; another seed, other bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forked import Forks
from support.states import assert_same, timeless

from runner.run import train_run
from runner.storage import checkpoint
from runner.training.build import build
from runner.training.loop import Loop
from runner.training.seeds import seed_torch

Composed = Callable[..., Any]

# With a model that draws by itself and a penalty that draws: all streams of random numbers are in use.
MINE = """
import torch
class Dropping(torch.nn.Sequential):
    def __init__(self, *, input_shape, outputs):
        super().__init__(torch.nn.Conv2d(1, 4, 5), torch.nn.MaxPool2d(4), torch.nn.Flatten())
        self.extend([torch.nn.Dropout(), torch.nn.Tanh(), torch.nn.Linear(144, outputs)])
"""
DRAWING = ("penalty=jacobian", "penalty.jacobian.weight=0.1", "data.label_noise=0.1", "optimizer=adam")
SHORT = ("epochs=3", "data.train_size=60", "data.validation_size=20", "batch_size=20", "threads=1", "device=cpu")
QUIET = ("histograms=false", "pictures=false")
OWN = ("--config-dir=own", "allow_targets=[mine]", "model=mine")


@pytest.fixture(autouse=True)
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("_target_: mine.Dropping\n")
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def outcome(directory: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return all states at the end and the rows of numbers, less what is measured by the clock."""
    state = checkpoint.load(directory)
    assert state
    return state["loop"], timeless(state["history"])


@pytest.fixture
def ended(composed: Composed, tmp_path: Path) -> Callable[..., Any]:
    """Return a function of overrides that trains in this process and returns the outcome."""

    def trained(*overrides: str) -> Any:
        own = OWN[1:] if "device=cuda" not in overrides else ()
        directory = composed("force=true", *SHORT, *DRAWING, *QUIET, *own, *overrides, folder=str(tmp_path / "own"))
        assert train_run(directory)["status"] == "done"
        return outcome(directory.path)

    return trained


def test_same_bits_alone_in_another_process_and_in_a_sweep(forks: Forks, tmp_path: Path, ended: Any) -> None:
    line = (*OWN, *SHORT, *DRAWING, *QUIET)
    assert forks.run(*line, "name=alone") == 0, forks.said()
    assert forks.run("-m", *line, "name=sweep", "seed=1,0", "sweep.n_jobs=2") == 0, forks.said()
    (directory,) = (tmp_path / "runs" / "alone").iterdir()
    torch.rand(7)  # this process has drawn numbers, the other has not
    assert_same(outcome(directory), ended())
    assert_same(outcome(directory), outcome(tmp_path / "runs" / "sweep" / directory.name))


def test_recording_and_evaluating_change_nothing(ended: Callable[..., Any]) -> None:
    plain, history = ended()
    others = {
        "recorded": ended("histograms=true", "pictures=true"),
        "never evaluated": ended("evaluate_every=0"),
        "probed": ended("probe=[jacobian_norm,noise]"),
        "saved at each step": ended("checkpoint_seconds=1e-6"),
        "with a penalty of weight 0": ended("penalty=[jacobian,large_margin]", "penalty.large_margin.weight=0"),
    }
    for name, (state, rows) in others.items():
        print(name)
        assert_same(state, plain)
        assert {key: rows[-1][key] for key in history[-1]} == history[-1]


@pytest.mark.parametrize("seed", [1, 2**40])
def test_another_seed_differs_in_every_way(ended: Callable[..., Any], seed: int) -> None:
    states = [ended(*seeds)[0] for seeds in ((), (f"seed={seed}",))]
    for name in ("generator", "torch_generator"):
        assert not torch.equal(*(state[name] for state in states))
    for weight in states[0]["model"]:
        assert not torch.equal(*(state["model"][weight] for state in states))


def test_each_stream_of_random_numbers_has_a_seed_of_its_own(composed: Composed) -> None:
    from runner.training.seeds import stream_seed

    purposes = [
        ("init",),
        ("penalty",),
        ("augment",),
        ("model",),
        *(("order", epoch) for epoch in range(100)),
        ("probe", "noise"),
    ]
    seeds = {stream_seed(seed, *purpose) for seed in range(100) for purpose in purposes}
    assert len(seeds) == 100 * len(purposes)


def test_penalties_and_augmentation_draw_other_numbers(composed: Composed) -> None:
    run = composed(*SHORT)
    loop = Loop(build(run.config), run.config)
    drawn = [torch.randn(9, generator=generator) for generator in (loop.generator, loop.augment_generator)]
    assert not torch.isin(*drawn).any()


def test_resumed_with_other_threads_warns(composed: Composed, capsys: pytest.CaptureFixture[str]) -> None:
    directory = composed(*SHORT, *QUIET)
    train_run(directory)
    (directory.path / "result.json").unlink()
    train_run(directory)
    assert "threads after" not in capsys.readouterr().out
    (directory.path / "result.json").unlink()  # a finished run is not trained again
    try:
        train_run(composed(*SHORT, *QUIET, "threads=2"))
    finally:
        torch.set_num_threads(1)
    warning = "warning: resumed with 2 threads after 1: the last bits of the result may differ"
    assert warning in capsys.readouterr().out.splitlines()
    assert re.search(warning, (directory.path / "train.log").read_text())


def test_resumed_on_another_device_warns(composed: Composed, capsys: pytest.CaptureFixture[str]) -> None:
    """As if the checkpoint came from a GPU: its generator's state is none for the CPU."""
    directory = composed(*SHORT, *QUIET, "penalty=jacobian")
    ends = []
    for _ in range(2):
        train_run(directory)
        (directory.path / "result.json").unlink()
        state = checkpoint.load(directory.path)
        assert state
        loop = {**state["loop"], "device": "cuda", "generator": torch.zeros(16, dtype=torch.uint8), "epoch": 1}
        for path in checkpoint.checkpoints(directory.path):
            path.unlink()
        checkpoint.save(directory.path, {**state, "loop": loop}, step=4)
        train_run(directory)
        (directory.path / "result.json").unlink()
        assert "warning: resumed on cpu after cuda" in capsys.readouterr().out
        ends.append(checkpoint.load(directory.path)["loop"]["model"])  # type: ignore[index]
        for path in checkpoint.checkpoints(directory.path):
            path.unlink()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_bits_on_cuda(ended: Callable[..., Any], gpu: str, precision: str) -> None:
    """Convolutions, pooling and their second derivatives, which by default add in any order."""
    overrides = (f"device={gpu}", f"precision={precision}", "penalty=[jacobian,large_margin]", "data.train_size=600")
    first = ended(*overrides)
    for _ in range(3):
        assert_same(ended(*overrides), first)
    assert torch.are_deterministic_algorithms_enabled() == (gpu == "cuda")


def test_torchs_own_generators_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", asked.append)
    seed_torch(3, torch.device("cpu"))
    assert (torch.initial_seed(), asked) == (3, [])
    seed_torch(4, torch.device("cuda"))
    assert asked == [4]  # which is of all devices


def test_cuda_is_asked_for_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.training import build

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: asked.append(mode))
    build.be_deterministic(torch.device("cpu"))
    assert not asked
    build.be_deterministic(torch.device("cuda"))
    assert asked == [True]
    assert build.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
