"""What is computed on a GPU is what is computed on the CPU. `scripts/gpu.sh` runs these tests on one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import data
from losses import (
    L1,
    L2,
    ActivationGradient,
    EagerForward,
    ElasticNet,
    FunctionalForward,
    InputGradient,
    Jacobian,
    JacobianSpectral,
    LargeMargin,
    Penalty,
    TangentProp,
    WeightGradient,
)
from runner.run import train_run
from runner.stack.session import train_stack
from runner.storage.directory import Run

CRITERION = nn.CrossEntropyLoss(reduction="none")
PENALTIES: dict[str, Callable[[Tensor], Penalty]] = {
    "l1": lambda inputs: L1(method="subgradient"),
    "l2": lambda inputs: L2(),
    "elastic_net": lambda inputs: ElasticNet(),
    "jacobian": lambda inputs: Jacobian(projections=None),
    "jacobian_spectral": lambda inputs: JacobianSpectral(),
    "input_gradient": lambda inputs: InputGradient(),
    "activation_gradient": lambda inputs: ActivationGradient(layers=["1"]),
    "weight_gradient": lambda inputs: WeightGradient(),
    "tangent_prop": lambda inputs: TangentProp(tangents=data.Tangents().fit(inputs)),
    "large_margin": lambda inputs: LargeMargin(layers=["inputs", "1"]),
}
SMALL = ("data=moons", "data.n=40", "model=mlp", "model.widths=[8]", "optimizer=adam", "epochs=3")
QUIET = ("histograms=false", "pictures=false")
EVERYTHING = ("augment=adversarial", "penalty=[jacobian,large_margin]", "probe=[pgd,noise,shift,jacobian_norm,signal]")


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network and a batch in double precision, on the CPU."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)]
    return nn.Sequential(*layers).double(), torch.randn(5, 1, 8, 8).double(), torch.randint(4, (5,))


def computed(name: str, kind: str, device: str) -> list[Tensor]:
    """Return a penalty and its gradient by the parameters, computed on a device by one of the two forward passes."""
    model, inputs, targets = problem()
    model, inputs, targets = copy.deepcopy(model).to(device), inputs.to(device), targets.to(device)
    penalty, params = PENALTIES[name](inputs), dict(model.named_parameters())
    rest = (CRITERION, inputs, targets, [penalty])
    forward = EagerForward(model, *rest) if kind == "eager" else FunctionalForward(model, params, *rest)
    value = penalty(forward).mean()
    gradients = torch.autograd.grad(value, [*params.values()], allow_unused=True)
    return [part.cpu() for part in (value, *gradients) if part is not None]


@pytest.mark.parametrize("kind", ["eager", "functional"])
@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_that_of_the_cpu(name: str, kind: str, gpu: str) -> None:
    torch.testing.assert_close(computed(name, kind, gpu), computed(name, kind, "cpu"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_everything_ends_well(train: Callable[..., dict[str, Any]], gpu: str, precision: str) -> None:
    result = train(f"device={gpu}", f"precision={precision}", *EVERYTHING, "data.train_size=200", "epochs=2")
    assert result["status"] == "done"
    assert (result["device"] == "cpu") == (gpu == "cpu")


def test_a_run_learns_as_on_the_cpu(train: Callable[..., dict[str, Any]], gpu: str) -> None:
    there, here = (train(f"device={device}", *SMALL, "epochs=20", "force=true") for device in (gpu, "cpu"))
    assert there["train/loss"] == pytest.approx(here["train/loss"], rel=0.01)


def test_a_stack_is_trained_as_its_runs_alone(composed: Callable[..., Run], gpu: str) -> None:
    sets = {}
    for name in ("alone", "together"):
        base = composed(*SMALL, *QUIET, f"device={gpu}", "penalty=jacobian", f"name={name}")
        sets[name] = [Run({**base.config, "seed": seed}) for seed in range(3)]
    for run in sets["alone"]:
        train_run(run)
    train_stack(sets["together"])
    for one, other in zip(*sets.values(), strict=True):
        assert other.result()["stack_size"] == 3
        assert other.result()["test/loss"] == pytest.approx(one.result()["test/loss"], rel=1e-3)
