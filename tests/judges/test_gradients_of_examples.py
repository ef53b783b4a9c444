"""Each example's own gradient by the weights: `per_example_gradients` against opacus and BackPACK."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from losses import CrossEntropy, per_example_gradients

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import backpack
    from backpack.extensions import BatchGrad, SumGradSquared
    from opacus.grad_sample import GradSampleModule

pytestmark = pytest.mark.sample

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), (5,)),
    "convnet": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)),
        (2, 8, 8),
    ),
    "layer and group norms": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.LayerNorm(144), nn.Tanh(), nn.Linear(144, 3)
        ),
        (2, 8, 8),
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)), (5,)),
}


def case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    x = torch.randint(9, (6, *shape)) if name == "embedding" else torch.randn(6, *shape, dtype=torch.float64)
    return model, x, torch.arange(6) % 3


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    first, second = (torch.cat([tensors[name].flatten() for name in ours]) for tensors in (ours, theirs))
    return ((first - second).norm() / second.norm()).item()


@pytest.mark.filterwarnings("ignore")  # of opacus, on hooks
@pytest.mark.parametrize("name", NETWORKS)
def test_opacus(name: str, judged: Callable[..., None]) -> None:
    model, x, y = case(name)
    ours = per_example_gradients(model, CrossEntropy(), x, y)
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    CrossEntropy()(wrapped(x), y).sum().backward()
    theirs = {key.removeprefix("_module."): p.grad_sample for key, p in wrapped.named_parameters()}
    judged("gradients of examples", "opacus", name, gradient=difference(ours, theirs))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mlp", "convnet"])  # of norms and embeddings it knows none
def test_backpack(name: str, judged: Callable[..., None]) -> None:
    model, x, y = case(name)
    ours = per_example_gradients(model, CrossEntropy(), x, y)
    wrapped = backpack.extend(copy.deepcopy(model))
    loss = backpack.extend(nn.CrossEntropyLoss(reduction="sum"))(wrapped(x), y)
    with backpack.backpack(BatchGrad(), SumGradSquared()):
        loss.backward()
    params = dict(wrapped.named_parameters())
    theirs = {key: p.grad_batch for key, p in params.items()}
    judged("gradients of examples", "BackPACK", name, gradient=difference(ours, theirs))
    squares = {key: gradients.square().sum(0) for key, gradients in ours.items()}
    theirs = {key: p.sum_grad_squared for key, p in params.items()}
    judged("squared gradients, summed over examples", "BackPACK", name, gradient=difference(squares, theirs))
