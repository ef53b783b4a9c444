"""FGSM and PGD, against foolbox, on images of bytes with a normalisation of one number and of one for each pixel."""

from __future__ import annotations

from collections.abc import Callable

import eagerpy as ep
import foolbox
import pytest
import torch
from foolbox.attacks import LinfFastGradientAttack, LinfProjectedGradientDescentAttack
from torch import Generator, Tensor, nn

from data import Dataset, Split
from losses import CrossEntropy
from models import MLP, Convnet
from runner.evaluation import Attack
from runner.evaluation.probes import Subject

pytestmark = pytest.mark.sample
START = 4  # seed of the random starts


class FromOurStart(LinfProjectedGradientDescentAttack):
    """Foolbox's attack from the start that our probe is to draw: uniform in [-epsilon, epsilon]."""

    def get_random_start(self, x0: ep.Tensor, epsilon: float) -> ep.Tensor:
        drawn = torch.rand(x0.shape, dtype=torch.float64, generator=Generator().manual_seed(START))
        return x0 + epsilon * ep.astensor(2 * drawn - 1)


class Raw(nn.Module):
    """The model as a function of raw images, 0 to 1."""

    def __init__(self, model: nn.Module, data: Dataset) -> None:
        super().__init__()
        self.model, self.data = model, data

    def forward(self, images: Tensor) -> Tensor:
        return self.model((255 * images - self.data.offset) / self.data.scale)


def subject(kind: str) -> tuple[Subject, Tensor]:
    """Return a model on images of bytes, some of them black and white, and the raw images, 0 to 1."""
    torch.manual_seed(0)
    images = torch.randint(256, (12, 3, 8, 12)).double()
    images[:, :, :2] = 0
    images[:, :, -2:] = 255
    shape = () if kind == "scalar" else images.shape[1:]
    offset, scale = (128 + 20 * torch.rand(shape).double()), (60 + 20 * torch.rand(shape).double())
    model: nn.Module = Convnet(input_shape=images.shape[1:], outputs=4, channels=[5, 6], activation="silu")
    if kind == "component":
        model = MLP(input_shape=images.shape[1:], outputs=4, widths=[20], activation="tanh")
    split = Split((images - offset) / scale, torch.randint(4, (12,)))
    data = Dataset(split, None, split, 4, offset, scale, (0.0, 255.0))
    model.double().eval()
    return Subject(model, CrossEntropy(), data, Generator().manual_seed(START)), images / 255


@pytest.mark.parametrize("normalize", ["scalar", "component"])
@pytest.mark.parametrize(("method", "steps"), [("FGSM", 1), ("PGD", 7)])
def test_attack(judged: Callable[..., None], normalize: str, method: str, steps: int) -> None:
    """The perturbed images, and the share of them that are misclassified."""
    about, images = subject(normalize)
    size = 0.06
    (ours,) = Attack([size], steps=steps).perturbed(about, about.dataset.test, size)
    ours = (ours * about.dataset.scale + about.dataset.offset) / 255

    attack = (
        LinfFastGradientAttack(random_start=False)
        if method == "FGSM"
        else FromOurStart(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
    )
    model = foolbox.PyTorchModel(Raw(about.model, about.dataset).eval(), bounds=(0, 1))
    targets = about.dataset.test.targets
    _, theirs, fooled = attack(model, images, targets, epsilons=size)
    assert (ours - images).abs().max().item() == pytest.approx(size)
    error = Attack([size], steps=steps).error(about, size)
    if method == "FGSM":
        assert error == fooled.double().mean().item()
    judged(method, "foolbox", f"images, normalize={normalize}", ((ours - theirs).norm() / theirs.norm()).item())
