"""Every option of every config group trains; the set tested is the set of files there are."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data
from data.files import File
from data.public import NAMES
from runner.config.conf_files import CONF

SMALL = ("epochs=1", "data.train_size=40", "batch_size=20", "data.validation_size=10")  # two steps
LINE = ("data=line", "model=mlp", "loss=mse", "batch_size=3", "epochs=1")
CIFAR = ("data=npz", "data.path={cifar}", "model=cifar10_convnet")

# How to make two steps with each option; the files under conf/ that are missing here fail the test below.
CASES: dict[str, dict[str, tuple[str, ...]]] = {
    "data": {
        "digits": SMALL,
        "mnist": (*SMALL, "data.root={public}"),
        "fashion_mnist": (*SMALL, "data.root={public}"),
        "cifar10": (*SMALL, "data.root={public}", "model=cifar10_convnet"),
        "line": LINE,
        "moons": ("data=moons", "model=mlp", "batch_size=90", "epochs=1"),
        "plateaus": (*LINE, "data=plateaus", "batch_size=2"),
        "sine": (*LINE, "data=sine", "batch_size=50"),
        "npz": (*SMALL, *CIFAR),
    },
    "model": {
        "mnist_convnet": SMALL,
        "cifar10_convnet": (*SMALL, *CIFAR),
        "large_margin_convnet": SMALL,
        "mlp": SMALL,
        "convnet": SMALL,
        "torchvision": SMALL,
        "module": (
            *LINE,
            "allow_targets=[torch]",
            "model=module",
            "model.network={{_target_: torch.nn.Linear, in_features: 1, out_features: 1}}",
        ),
    },
    "init": dict.fromkeys(
        ("torch", "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform", "orthogonal", "normal"), SMALL
    )
    | {"lsuv": SMALL},
    "loss": {
        **dict.fromkeys(("cross_entropy", "mse_one_hot", "multi_margin"), SMALL),
        "nll": (*SMALL, "model.log_softmax=true"),
        **{name: (*LINE, f"loss={name}") for name in ("mse", "sum_of_squares", "l1")},
    },
    "optimizer": dict.fromkeys(("sgd", "momentum", "nesterov", "adam", "adamw", "adamax", "nadam"), SMALL)
    | dict.fromkeys(("rmsprop", "rmsprop_tensorflow", "adagrad", "adadelta", "lbfgs", "sam"), SMALL),
    "scheduler": dict.fromkeys(("constant", "step", "geometric", "staircase", "cosine"), SMALL),
    "augment": dict.fromkeys(("none", "noise", "distortion", "adversarial"), SMALL),
    "penalty": dict.fromkeys(("l2", "l1", "elastic_net"), (*SMALL, "optimizer=sgd"))
    | dict.fromkeys(("jacobian", "jacobian_spectral", "tangent_prop", "large_margin"), SMALL)
    | {"large_margin_reference": (*SMALL, "loss.weight=0", "optimizer=adam", "optimizer.clip=5")}
    | dict.fromkeys(("input_gradient", "activation_gradient", "weight_gradient", "none"), SMALL),
    "probe": {
        **dict.fromkeys(["jacobian_norm", "zeros", "boundary", "noise", "shift", "rotation", "fgsm", "pgd"], SMALL),
        "signal": SMALL,
        "penalty_value": (*SMALL, "probe.penalty_value.penalty={{_target_: losses.L2}}"),
        "slope": LINE,
    },
}


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a user's own arrays, of the shape of CIFAR-10."""
    path = tmp_path_factory.mktemp("npz") / "images.npz"
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (60, 3, 32, 32)).astype(np.uint8)
    labels = np.arange(60) % 10
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:20], test_labels=labels[:20])
    return path


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty examples of each public set, in the published formats, with the sums that are checked set to theirs."""
    random = np.random.RandomState(0)

    def written(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    for source in (data.MNIST, data.FashionMNIST):
        arrays = [random.randint(0, 256, (60, 28, 28)), np.arange(60) % 10] * 2
        headers = [struct.pack(f">HBB{a.ndim}i", 0, 8, a.ndim, *a.shape) for a in arrays]
        packed = [gzip.compress(head + a.astype(np.uint8).tobytes()) for head, a in zip(headers, arrays, strict=True)]
        names = [f"{source.FOLDER}/{name}.gz" for name in NAMES]
        monkeypatch.setattr(source, "PACKED", tuple(map(written, names, packed)))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as members:
        for name in (*data.CIFAR10.TRAIN, "test_batch.bin"):
            rows = random.randint(0, 256, (12, 3073)).astype(np.uint8)
            rows[:, 0] = np.arange(12) % 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = rows.nbytes
            members.addfile(member, io.BytesIO(rows.tobytes()))
    digest = written(data.CIFAR10.ARCHIVE.name, archive.getvalue())
    monkeypatch.setattr(data.CIFAR10, "ARCHIVE", File(data.CIFAR10.ARCHIVE.name, digest, ()))
    return tmp_path


def test_cases_are_the_files() -> None:
    for group, cases in CASES.items():
        files = {str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml")}
        assert files == set(cases), group


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in CASES for option in CASES[group]])
def test_option_trains_two_steps(
    train: Callable[..., dict[str, Any]], cifar: Path, public: Path, group: str, option: str
) -> None:
    lines = [line.format(cifar=cifar, public=public) for line in CASES[group][option]]
    result = train(f"{group}={option}", *(line for line in lines if not line.startswith(f"{group}=")))
    assert result["status"] == "done"
    assert math.isfinite(result["train/loss"])
    assert math.isfinite(result["train/objective"])
