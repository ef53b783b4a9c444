"""Results in Python: frames of runs, trained networks that predict as recorded, the best weights, a warm start."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support import ROOT
from support.forked import Forks
from support.states import assert_same

from runner.config.check import ConfigError
from runner.evaluation.predictor import Predictor
from runner.results import Epoch, delete, export, load_epochs, load_model, load_runs
from runner.run import Session, built, train_run
from runner.storage import checkpoint, weights
from runner.storage.directory import Run
from runner.storage.identity import identity
from runner.storage.lock import Busy, locked
from runner.summary.rows import NothingToShow
from runner.training.build import build
from runner.training.instantiate import construct, own_options

Composed = Callable[..., Run]
QUIET = ("histograms=false", "pictures=false")
SHORT = (*QUIET, "epochs=4", "data.train_size=100", "data.validation_size=40", "batch_size=25")
MLP = (*SHORT, "model=mlp", "model.widths=[8]")
EPOCHS: tuple[Epoch, ...] = ("last", "best")


@pytest.fixture
def trained(composed: Composed) -> Composed:
    """Return a function of overrides that trains in this process and returns the run."""

    def train(*overrides: str) -> Run:
        run = composed(*overrides)
        assert train_run(run)["status"] == "done"
        return run

    return train


def assert_exact(run: Run, epoch: Epoch, **options: Any) -> None:
    """The network gives the recorded loss and error of the raw test set, to the last bit."""
    result, kept = run.result(), "" if epoch == "last" else "best/"
    model = load_model(run.path, epoch, **options)
    assert not model.training
    test = construct(own_options(run.config["data"], "data")).load().test
    outputs = model(test.inputs)
    losses = construct(own_options(run.config["loss"], "loss"))(outputs, test.targets)
    assert losses.double().mean().item() == result[f"{kept}test/loss"]
    if f"{kept}test/error" in result:
        assert (outputs.argmax(1) != test.targets).double().mean().item() == result[f"{kept}test/error"]


# ---- trained networks


@pytest.mark.parametrize(
    "overrides",
    [
        (*SHORT, "model.width=0.25"),
        (*SHORT, "model.width=0.25", "penalty=jacobian"),  # with the channels first
        (*MLP, "data.normalize=component"),
        (*MLP, "init=lsuv", "model.activation=tanh"),  # which needs the data that is not read here
        (*MLP, "data.normalize=none", "optimizer.lr=0.1"),
        (*SHORT, "model=large_margin_convnet", "model.width=0.1"),
        (*SHORT, "model=large_margin_convnet", "model.width=0.1", "batch_norm=frozen"),
        (*SHORT, "model.width=0.25", "precision=bf16"),
        (*QUIET, "epochs=4", "data=line", "model=mlp", "loss=mse"),
        (*QUIET, "epochs=4", "data=sine", "model=mlp", "loss=mse"),
    ],
    ids=lambda overrides: " ".join(overrides[-2:]),
)
def test_a_model_predicts_what_is_recorded(trained: Composed, overrides: tuple[str, ...]) -> None:
    run = trained(*overrides)
    for epoch in EPOCHS:
        assert_exact(run, epoch)


def test_features_far_from_zero_are_normalised_in_double_precision(trained: Composed, tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    years = {f"{part}_inputs": 2e7 + 10 * draw.rand(60, 3) for part in ("train", "test")}
    labels = {f"{part}_labels": np.arange(60) % 2 for part in ("train", "test")}
    np.savez(tmp_path / "years.npz", **years, **labels)
    overrides = (*QUIET, "epochs=2", "model=mlp", "model.widths=[8]", "data=npz", f"data.path={tmp_path}/years.npz")
    for normalize in ("scalar", "component"):
        run = trained(*overrides, f"data.normalize={normalize}")
        assert_exact(run, "last")
    model = load_model(run.path)
    model.offset, model.scale = model.offset.float(), model.scale.float()
    coarse = model(torch.from_numpy(years["test_inputs"]))
    exact = load_model(run.path)(torch.from_numpy(years["test_inputs"]))
    assert not torch.equal(coarse, exact)  # else this test would not see the precision


def test_the_best_epoch_is_another_one_than_the_last(trained: Composed) -> None:
    run = trained(*MLP, "epochs=6", "data.label_noise=0.5", "optimizer.lr=0.7", "batch_size=10")
    result = run.result()
    assert result["best/epoch"] < result["epoch"]
    assert result["best/test/loss"] != result["test/loss"]
    for epoch in EPOCHS:
        assert_exact(run, epoch)


def test_more_examples_than_a_batch_and_gradients_by_the_raw_inputs(trained: Composed) -> None:
    model = load_model(trained(*MLP, "model.activation=tanh").path)
    inputs = torch.randint(0, 256, (1100, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(model(inputs)[500:1000], model(inputs[500:1000]))
    assert not model(inputs).requires_grad
    raw = inputs[:3].double().requires_grad_()
    (slope,) = torch.autograd.grad(model(raw).sum(), raw)
    step = torch.zeros_like(raw)
    step[:, 0, 14, 14] = 1.0
    with torch.no_grad():
        difference = model(raw + step).sum(1) - model(raw - step).sum(1)
    torch.testing.assert_close(slope[:, 0, 14, 14].float(), difference / 2, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("overrides", [(), ("penalty=jacobian",)])
def test_the_network_sees_what_it_saw_in_the_run(trained: Composed, overrides: tuple[str, ...]) -> None:
    """In the same memory layout and in batches of the same size: the bits of a sum may depend on both."""
    run = trained(*SHORT, "model.width=0.25", *overrides)
    seen: list[torch.Tensor] = []
    model, dataset = load_model(run.path), build(run.config).dataset
    model.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(construct(own_options(run.config["data"], "data")).load().test.inputs.repeat(3, 1, 1, 1))
    assert [len(batch) for batch in seen] == [500, 500, 80]
    assert torch.equal(seen[0][:360], dataset.test.inputs)
    assert seen[0].stride() == dataset.test.inputs.stride()
    weight, trained_weight = (net.get_submodule("conv2").weight for net in (model.network, build(run.config).model))
    assert weight.stride() == trained_weight.stride()


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_several_channels_are_laid_out_as_in_the_run(channels_last: bool) -> None:
    """With one channel there is nothing to see."""
    facts: dict[str, Any] = {"input_shape": (3, 4, 5), "offset": torch.tensor(1.0).double(), "range": None}
    facts |= {"target_offset": torch.tensor(0.0), "target_scale": torch.tensor(1.0)}
    seen: list[torch.Tensor] = []
    network = torch.nn.Flatten()
    network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    Predictor(network, scale=torch.tensor(2.0).double(), channels_last=channels_last, **facts)(torch.ones(2, 3, 4, 5))
    assert seen[0].is_contiguous(memory_format=torch.channels_last) == channels_last
    assert seen[0].is_contiguous() != channels_last


def test_inputs_of_another_shape_are_refused(trained: Composed) -> None:
    model = load_model(trained(*MLP).path)
    with pytest.raises(ValueError, match=r"inputs must be of shape \(N, 1, 28, 28\), got \(2, 28, 28\)"):
        model(torch.zeros(2, 28, 28))


def test_no_data_set_is_read_and_no_random_number_drawn(trained: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(*MLP)
    monkeypatch.setattr("data.Digits.load", None)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load_model(run.path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def own_network(trained: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a network in a package that can be imported from the working directory alone."""
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, hidden: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, hidden), nn.BatchNorm1d(hidden), nn.Tanh(),\n"
        "                         nn.Linear(hidden, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return trained(*SHORT, "model=module", "model.network={_target_: mynet.Net, hidden: 5}", "allow_targets=[mynet]")


def test_a_network_of_a_users_own_needs_permission(own_network: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mynet")
    sentence = (
        r"config\.yaml names mynet\.Net, which is not of this project: add allow_targets=\['mynet'\] if you trust"
    )
    with pytest.raises(ValueError, match=sentence):
        load_model(own_network.path)
    assert "mynet" not in sys.modules
    for epoch in EPOCHS:
        assert_exact(own_network, epoch, allow_targets=["mynet"])


@pytest.mark.parametrize("target", ["os.system", "torch.load", ["os.system"], None])
def test_a_tampered_config_builds_nothing(trained: Composed, target: Any) -> None:
    run = trained(*MLP)
    for group in ("model", "init"):
        config = {**run.config, group: {"_target_": target, "command": "touch evil"}}
        (run.path / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(ValueError, match="is not of this project"):
            load_model(run.path)


def test_what_cannot_be_loaded_is_one_sentence(trained: Composed, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent has no weights of its last epoch: train it first"):
        load_model(tmp_path / "absent")
    run = trained(*MLP)
    with pytest.raises(ValueError, match="epoch must be last or best, got 3"):
        load_model(run.path, 3)  # type: ignore[arg-type]
    for kind, epoch in (("checkpoint", "last"), ("best", "best")):
        (newest, *_) = checkpoint.checkpoints(run.path, kind)
        state = checkpoint.load(run.path, kind)
        assert state
        earlier = {**state, "epoch": 1} if kind == "best" else {**state, "loop": {**state["loop"], "epoch": 1}}
        tensors = earlier["model"] if kind == "best" else earlier["loop"]["model"]
        next(iter(tensors.values())).zero_()
        newest.unlink()
        checkpoint.save(run.path, earlier, step=0, kind=kind)  # what is left where the newest file is damaged
        with pytest.raises(ValueError, match=f"holds no sound file of its {epoch} epoch"):
            load_model(run.path, epoch)  # type: ignore[arg-type]
    other = trained(*MLP, "seed=1")
    for content in ("{", "seed: 1"):
        (other.path / "config.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"config\.yaml is missing or no config: train the run again"):
            load_model(other.path)


def test_a_run_of_an_earlier_version_says_so(trained: Composed) -> None:
    run = trained(*MLP)
    state = checkpoint.load(run.path)
    assert state
    del state["predictor"]
    checkpoint.save(run.path, state, step=99)
    with pytest.raises(ValueError, match="was trained by an earlier version"):
        load_model(run.path)


# ---- the weights of the best epoch


def best_files(directory: Path) -> list[int]:
    """Return the epochs of the files that hold best weights, the newest first."""
    return [int(path.stem.partition("-")[2]) for path in checkpoint.checkpoints(directory, "best")]


def test_of_equal_epochs_the_first_is_the_best(trained: Composed) -> None:
    run = trained(*MLP, "optimizer.lr=1e-30")
    assert run.result()["best/epoch"] == 1
    assert best_files(run.path) == [1]
    assert_exact(run, "best")


def test_best_weights_are_not_written_in_each_epoch(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with a checkpoint, of which some epochs of a millisecond share one."""
    written, evaluated = [], []
    save, evaluate = checkpoint.save, Session.evaluate

    def noted_save(*arguments: Any, kind: str = "checkpoint", **options: Any) -> Path:
        written.append(kind)
        return save(*arguments, kind=kind, **options)

    def noted_evaluate(self: Session, means: dict[str, float]) -> None:
        evaluate(self, means)
        evaluated.append(self.best.get("epoch"))

    monkeypatch.setattr(checkpoint, "save", noted_save)
    monkeypatch.setattr(Session, "evaluate", noted_evaluate)
    monkeypatch.setattr("runner.run.EPOCH_SAVE_SECONDS", 1e6)
    train_run(composed(*QUIET, "data=line", "model=mlp", "loss=mse", "epochs=30", "optimizer.lr=0.01"))
    assert len(set(evaluated)) > 10
    assert written == ["best", "checkpoint"]


def test_a_diverged_run_keeps_the_best_epoch_that_it_records(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.run.EPOCH_SAVE_SECONDS", 1e6)
    run = composed(*MLP, "scheduler=step", "scheduler.milestones=[2]", "scheduler.values=[0.1,1e38]")
    assert train_run(run)["status"] == "diverged"
    assert run.result()["best/epoch"] in (1, 2)
    assert_exact(run, "best")


def test_force_removes_the_best_of_before(trained: Composed) -> None:
    run = trained(*MLP)
    checkpoint.save(run.path, {"epoch": 99}, step=99, kind="best")
    trained(*MLP, "force=true")
    assert best_files(run.path)[0] == run.result()["best/epoch"]
    assert_exact(run, "best")


def test_a_best_from_the_future_does_not_survive(forks: Forks) -> None:
    """Killed between the best weights of the first epoch and the checkpoint after it, then spoilt, then resumed."""
    lines = [(*MLP, f"runs_dir={runs}", "threads=1", "device=cpu") for runs in ("whole", "killed")]
    assert forks.run(*lines[0]) == 0, forks.said()
    steps = 4  # of an epoch
    assert forks.run(*lines[1], "checkpoint_seconds=1e-6", after=steps, moment="saving") == -9, forks.said()
    whole, killed = (next((forks.folder / runs / "train").iterdir()) for runs in ("whole", "killed"))
    assert best_files(killed) == [1]
    state = checkpoint.load(killed)
    assert state
    assert state["loop"]["epoch"] == 0
    checkpoint.save(killed, {"epoch": 1, "model": {}}, step=1, kind="best")
    assert forks.run(*lines[1], "checkpoint_seconds=1e-6", after=1, moment="after") == -9, forks.said()
    assert best_files(killed) == []  # the epoch has not been reached again
    assert forks.run(*lines[1]) == 0, forks.said()
    assert_same(checkpoint.load(killed, "best"), checkpoint.load(whole, "best"))
    assert best_files(killed)[0] == best_files(whole)[0]


def test_each_kept_checkpoint_has_its_best(tmp_path: Path) -> None:
    """Also at the moment between the best weights and their checkpoint, and if the newest checkpoint is damaged."""
    for epoch in range(1, 6):
        checkpoint.save(tmp_path, {"epoch": epoch}, step=epoch, kind="best")
        steps = [int(path.stem.partition("-")[2]) for path in checkpoint.checkpoints(tmp_path)]
        assert {step // 10 for step in steps} <= set(best_files(tmp_path))
        checkpoint.save(tmp_path, {}, step=10 * epoch)
    assert len(best_files(tmp_path)) == 3


# ---- files for other programs, and a warm start


def test_an_exported_network_is_whole(trained: Composed, tmp_path: Path) -> None:
    run = trained(*MLP, "data.normalize=component")
    for epoch in EPOCHS:
        tensors = load_file(export(run.path, tmp_path / "out", epoch))
        assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text()) == run.config
        model = load_model(run.path, epoch)
        assert tensors.keys() == model.state_dict().keys()
        assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())


def test_layers_that_share_weights_are_exported(tmp_path: Path) -> None:
    shared = torch.ones(4, 4).to(memory_format=torch.contiguous_format)
    weights.write(tmp_path / "x.safetensors", {"a": shared, "b": shared[:2], "c": shared.T}, {}, {})
    assert torch.equal(load_file(tmp_path / "x.safetensors")["network.b"], shared[:2])
    with pytest.raises(ValueError, match=r"safetensors holds tensors alone, got network\.d of type int"):
        weights.write(tmp_path / "y.safetensors", {"d": 3}, {}, {})  # type: ignore[dict-item]


def test_a_warm_start_begins_with_the_weights(trained: Composed, composed: Composed, tmp_path: Path) -> None:
    donor = trained(*SHORT, "model.width=0.25", "seed=1")
    last = checkpoint.load(donor.path)
    assert last
    file = export(donor.path, tmp_path / "out")
    pattern = f"{donor.path.parent}/*{donor.run_id}"
    sources = (f'"{donor.path}"', file, pattern)  # the first in quotes, since it holds = and ,
    runs = [composed(*SHORT, "model.width=0.25", f"init_from={source}") for source in sources]
    for run in runs:
        model = built(run)[0].model
        for name, value in last["loop"]["model"].items():
            assert torch.equal(model.state_dict()[name], value)
    assert len({(run.run_id, run.path) for run in runs}) == 1  # the path does not count
    assert re.search(r"init_from=[0-9a-f]{8}_", runs[0].path.name)
    assert train_run(runs[0])["train/loss"] < donor.result()["train/loss"]
    assert_exact(runs[0], "last")


def test_other_weights_are_another_run_and_none_changes_no_id(trained: Composed, composed: Composed) -> None:
    first, second = (trained(*MLP, f"seed={seed}") for seed in (1, 2))
    runs = [composed(*MLP, f'init_from="{donor.path}"') for donor in (first, second)]
    plain = composed(*MLP)
    assert len({run.run_id for run in (*runs, plain)}) == 3
    assert "init_from" not in identity(plain.config)
    assert "init_from" not in plain.path.name
    assert runs[0].group_id == composed(*MLP, f'init_from="{first.path}"', "seed=3").group_id


def test_the_same_weights_have_the_same_digest_however_they_lie() -> None:
    state = {"conv": torch.randn(4, 3, 5, 5), "count": torch.tensor(3), "flags": torch.tensor([True, False])}
    other = {name: state[name].clone() for name in reversed(state)}
    other["conv"] = other["conv"].to(memory_format=torch.channels_last)
    assert weights.digest_of(state) == weights.digest_of(other)
    other["conv"][0, 0, 0, 0] += 1e-6
    assert weights.digest_of(state) != weights.digest_of(other)
    assert weights.digest_of(state) != weights.digest_of({**state, "conv": state["conv"].reshape(4, 75)})
    assert weights.digest_of({"a": state["conv"]}) != weights.digest_of({"b": state["conv"]})


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    trained: Composed, composed: Composed, tmp_path: Path
) -> None:
    donor = trained(*MLP)
    for option, sentence in (
        ("model.widths=[9]", "fc1.weight is 8x784, and 9x784 in the model; fc1.bias is 8, and 9 in the model; fc2.w"),
        (
            "model.widths=[8,8]",
            "fc3.weight is missing; fc3.bias is missing; fc2.weight is 10x8, and 8x8 .* more",
        ),
        ("model.widths=[]", "there is no fc2.weight in the model; there is no fc2.bias in the model; fc1.weight is"),
    ):
        run = composed(*MLP, option, f'init_from="{donor.path}"')
        with pytest.raises(ConfigError, match=rf"^init_from must be weights that fit the model, got .*{sentence}"):
            train_run(run)
        assert not run.path.exists()


def test_what_holds_no_weights_is_one_sentence(trained: Composed, composed: Composed, tmp_path: Path) -> None:
    donor = trained(*MLP)
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "empty").mkdir()
    running = shutil.copytree(donor.path, tmp_path / "running")
    (running / "result.json").write_text(json.dumps({**donor.result(), "status": "running"}))
    changed = shutil.copytree(donor.path, tmp_path / "changed")
    (changed / "result.json").write_text(json.dumps({**donor.result(), "weights_sha256": "0" * 64}))
    for source, sentence in {
        "absent": "got .*absent: there is none",
        "x" * 3000: "got .*: .*File name too long",
        "*": "got .*: [0-9]+ fit it",
        "bad.safetensors": "got .*bad.safetensors: ",
        "empty": "must be a run that is done, or a .safetensors file, got .*empty: train it first",
        "running": "must be a run that is done, or a .safetensors file, got .*running",
        "changed": "must be a run with the checkpoint of its end, got .*changed: train it again with force=true",
    }.items():
        run = composed(*MLP, f'init_from="{tmp_path / source}"')
        with pytest.raises(ConfigError, match=f"^init_from .*{sentence}") as refusal:
            built(run)
        assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(ConfigError, match=r"^init_from must be .*, got ~nobody-here/x: Could not determine"):
        built(composed(*MLP, "init_from='~nobody-here/x'"))


def test_a_file_of_another_program_is_taken(composed: Composed, tmp_path: Path) -> None:
    wanted = build(composed(*MLP, "seed=5").config).model.state_dict()
    save_file(dict(wanted), tmp_path / "theirs.safetensors")
    model = built(composed(*MLP, f"init_from={tmp_path}/theirs.safetensors"))[0].model
    assert all(torch.equal(model.state_dict()[name], value) for name, value in wanted.items())


def test_a_file_is_hashed_once(composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(3)}, path)
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or read_bytes(self))
    found = {composed(*MLP, f"init_from={path}", f"seed={seed}").group_id for seed in range(4)}
    assert len(found) == 1
    assert read.count(path) == 1
    save_file({"a": torch.zeros(3)}, path)  # of the same size
    os.utime(path, (0, 0))
    assert composed(*MLP, f"init_from={path}").group_id not in found


@pytest.mark.process
def test_the_identity_needs_no_torch(trained: Composed, tmp_path: Path) -> None:
    donor = trained(*MLP)
    file = export(donor.path, tmp_path / "out")
    code = "import sys; from runner.storage.weights import digest_at; print(*map(digest_at, sys.argv[1:])); "
    code += "assert 'torch' not in sys.modules"
    line = [sys.executable, "-c", code, str(donor.path), str(file)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [donor.result()["weights_sha256"]] * 2, done.stderr


# ---- frames


@pytest.fixture
def forge(composed: Composed, tmp_path: Path) -> Callable[..., Run]:
    """Return a function that writes the files of a run without training."""

    def write(*overrides: str, status: str = "done", epochs: tuple[float, ...] = (), **metrics: Any) -> Run:
        run = composed(*overrides)
        run.write_config()
        numbers = {key.replace("__", "/"): value for key, value in metrics.items()}
        run.write_result({"status": status, "seed": run.config["seed"], **numbers})
        rows = [f"{number},{value}\n" for number, value in enumerate(epochs, 1)]
        (run.path / "metrics.csv").write_text("epoch,test/error\n" + "".join(rows))
        return run

    return write


def test_a_row_for_each_run(forge: Callable[..., Run], tmp_path: Path) -> None:
    exact = 0.1 + 0.2
    first = forge("penalty=l2", "penalty.l2.weight=0.5", "seed=1", test__error=exact, best__epoch=3, seconds=2.5)
    second = forge("name=other", "model=mlp", "model.widths=[5,6]", status="failed", reason="boom", test__loss=math.inf)
    (tmp_path / "runs" / "lost").mkdir()
    (tmp_path / "runs" / "lost" / "config.yaml").write_text("{")
    runs = load_runs(str(first.path.parent), tmp_path / "runs" / "other", tmp_path / "runs" / "lost")
    runs = runs.set_index("path")
    one, other = runs.loc[str(first.path)], runs.loc[str(second.path)]
    assert (one["run_id"], one["status"], one["penalty"], one["model"]) == (first.run_id, "done", "l2", "mnist_convnet")
    assert (one["penalty.l2.weight"], one["seed"], one["allow_targets"]) == (0.5, 1, [])
    assert runs["data.train_size"].isna().all()
    assert (one["test/error"], one["best/epoch"], one["seconds"]) == (exact, 3, 2.5)
    assert pd.isna(one["reason"])  # nobody asks why a run has ended well
    assert math.isnan(one["test/loss"])
    assert (other["penalty"], other["reason"], other["model.widths"]) == ("none", "boom", [5, 6])
    assert other["test/loss"] == math.inf
    assert math.isnan(other["penalty.l2.weight"])
    assert "penalty=l2" in one["setting"]
    assert "seed" not in one["setting"]
    assert runs.loc[str(tmp_path / "runs" / "lost")]["status"] == "unreadable"
    columns = list(runs)
    assert columns.index("setting") < columns.index("model.widths") < columns.index("test/error")


def test_runs_of_another_seed_have_the_same_setting(forge: Callable[..., Run], tmp_path: Path) -> None:
    for weight in (0.1, 0.2):
        for seed in (0, 1):
            forge("penalty=l2", f"penalty.l2.weight={weight}", f"seed={seed}", test__error=weight + seed)
    runs = load_runs(tmp_path / "runs")
    assert runs.groupby("setting")["test/error"].mean().to_dict() == {
        "l2.weight=0.1": pytest.approx(0.6),
        "l2.weight=0.2": pytest.approx(0.7),
    }


def test_no_runs_is_one_sentence(tmp_path: Path) -> None:
    for load in (load_runs, load_epochs):
        with pytest.raises(NothingToShow, match=f"there are no runs in {tmp_path}: give a folder such as runs/<name>"):
            load(tmp_path)


def test_a_row_for_each_epoch(forge: Callable[..., Run], tmp_path: Path) -> None:
    exact = 0.1 + 0.2
    run = forge("penalty=l2", "seed=1", epochs=(exact, math.inf, math.nan), test__error=9.0)
    forge("seed=2", epochs=())
    lost = forge("seed=3", epochs=(1.0,))
    (lost.path / "metrics.csv").write_bytes(b"epoch,test/error\n1,\xff\n")
    epochs = load_epochs(tmp_path / "runs")
    assert epochs["epoch"].tolist() == [1, 2, 3]
    assert epochs["test/error"].tolist()[:2] == [exact, math.inf]
    assert math.isnan(epochs["test/error"].iloc[2])
    assert set(epochs["path"]) == {str(run.path)}
    assert set(epochs["penalty"]) == {"l2"}
    assert set(epochs["seed"]) == {1}


def test_epochs_are_those_of_the_run(trained: Composed) -> None:
    run = trained(*MLP)
    epochs = load_epochs(run.path)
    state = checkpoint.load(run.path)
    assert state
    assert epochs["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert epochs["validation/loss"].tolist() == [row["validation/loss"] for row in state["history"]]
    assert load_runs(run.path).loc[0, "test/loss"] == epochs["test/loss"].iloc[-1]


def test_only_a_run_is_deleted_and_none_that_is_trained(forge: Callable[..., Run], tmp_path: Path) -> None:
    runs = [forge(f"seed={seed}") for seed in (0, 1)]
    for folder in (tmp_path / "runs", tmp_path):
        with pytest.raises(NothingToShow, match="is not the directory of a run: nothing is deleted"):
            delete(folder)
    with locked(runs[0].path), pytest.raises(Busy):
        delete(runs[0].path)
    delete(runs[1].path)
    assert runs[0].path.exists()
    assert not runs[1].path.exists()


def test_the_examples_of_the_docs(
    trained: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for weight in (0, 0.01):
        for seed in range(2):
            trained(*MLP, "name=l2", "penalty=l2", f"penalty.l2.weight={weight}", f"seed={seed}")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    assert names["run"].result["status"] == "done"
    assert len(names["study"].runs) == 4
    assert names["study"].answer.startswith("Difference to l2.weight=0")
    assert names["table"]["count"].tolist() == [2, 2]
    assert names["error"] == names["chosen"]["best/test/error"]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert list(names["means"]) == [0, 0.01]
    expected = names["model"].network(names["normalized"].float())
    torch.testing.assert_close(names["outputs"], expected, rtol=1e-4, atol=1e-4)
