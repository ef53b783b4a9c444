"""Probes: what training with a penalty has done to the function, in numbers, on the test set.

Each is asked twice, before the first step (epoch 0) and of the trained model; its numbers stand as
`probe/<name>/<number>` in TensorBoard and metrics.csv, those of the trained model also in result.json. Derivatives
here need no graph, so they are taken in plain loops and exactly.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from data import Dataset, Split
from runner.evaluation.evaluate import BATCH, evaluate

MOST_ENTRIES = 2**25  # of the Jacobians of one batch


@dataclass(frozen=True)
class Subject:
    """What a probe looks at: the trained model, in evaluation mode, the data, and a generator of its own."""

    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    dataset: Dataset
    generator: Generator


class Probe(ABC):
    """Measures something of a trained model.

    Args:
        examples: how many test examples, the first ones (>= 1; null: all).
    """

    def __init__(self, examples: int | None = None) -> None:
        if examples is not None and examples < 1:
            raise ValueError(f"examples must be at least 1 or null, got {examples}")
        self.examples = examples

    def check(self, dataset: Dataset) -> None:  # noqa: B027 (most take any data)
        """Raise ValueError, before training, if the probe does not suit the data."""

    @abstractmethod
    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        """Return numbers by name; a tensor becomes a histogram."""

    def test_split(self, subject: Subject) -> Split:
        """Return the test examples to look at."""
        return subject.dataset.test[: self.examples]


class JacobianNorm(Probe):
    """The mean over the test set of ||J||_F and of sigma_1(J), J the exact Jacobian of the outputs by the inputs.

    Inputs in the units that the model sees (normalised), as in Hoffman, Roberts, Yaida 2019, arXiv 1908.02729.
    """

    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        found = jacobians(subject.model, self.test_split(subject).inputs)
        eigenvalues = torch.cat([torch.linalg.eigvalsh(j @ j.mT) for j in found])  # (N, C)
        return {
            "frobenius": eigenvalues.sum(1).sqrt().mean().item(),
            "sigma_1": eigenvalues[:, -1].sqrt().mean().item(),
        }


class Zeros(Probe):
    """The fraction of parameters that are exactly zero, of the model and of each of its weights and biases."""

    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        params = dict(subject.model.named_parameters())
        zeros = {name: int((param == 0).sum()) for name, param in params.items()}
        fractions = {name: zeros[name] / param.numel() for name, param in params.items()}
        return {"all": sum(zeros.values()) / sum(param.numel() for param in params.values()), **fractions}


class Boundary(Probe):
    """The linearised distance to the decision boundary, in Euclidean norm and units of the normalised inputs.

    min over wrong classes i of (f_y - f_i) / ||grad_x (f_y - f_i)||_2, negative where the class is wrong; exact for a
    linear model. Source: Elsayed et al. 2018, arXiv 1803.05598, equation 3.
    """

    def check(self, dataset: Dataset) -> None:
        require_classes("boundary", dataset)

    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        split = self.test_split(subject)
        outputs = evaluate(subject.model, subject.criterion, split, subject.dataset.classes).outputs.double()
        found: list[Tensor] = []
        for j in jacobians(subject.model, split.inputs):
            batch = slice(sum(map(len, found)), sum(map(len, found)) + len(j))
            logits, labels = outputs[batch], split.targets[batch]
            rows = torch.arange(len(labels), device=labels.device)
            slopes = (j[rows, labels].unsqueeze(1) - j).norm(dim=2)
            gaps = logits[rows, labels].unsqueeze(1) - logits
            distances = gaps / slopes.clamp(min=1e-12)
            distances[rows, labels] = torch.inf  # the class itself has no boundary with itself
            found.append(distances.amin(1))
        distances = torch.cat(found)
        return {
            "mean": distances.mean().item(),
            "percentile_10": distances.quantile(0.1).item(),
            "distances": distances,
        }


class Slope(Probe):
    """The slope of a learned curve at the training points, and its greatest absolute value in each gap between them.

    In raw units. `at_points` is the greatest absolute slope at a point, `between` the least of the gaps' greatest.

    Args:
        grid: points at which the slope is taken in each gap (>= 1).
    """

    def __init__(self, grid: int = 200) -> None:
        super().__init__()
        if grid < 1:
            raise ValueError(f"grid must be at least 1, got {grid}")
        self.grid = grid

    def check(self, dataset: Dataset) -> None:
        if dataset.classes is not None or dataset.shape != (1,) or dataset.outputs != 1:
            raise ValueError(
                "slope is of a curve, one number in and one out, unlike this data: choose data=line or sine"
            )

    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        points = subject.dataset.train.inputs.flatten().unique()
        fractions = torch.linspace(0, 1, self.grid + 2, device=points.device)[1:-1]
        between = points[:-1, None] + (points[1:] - points[:-1])[:, None] * fractions
        at, inside = self.slopes(subject, points), self.slopes(subject, between.flatten()).reshape(between.shape)
        greatest = inside.abs().amax(1) if len(inside) else torch.zeros(1)
        each = {f"at_{i}": slope for i, slope in enumerate(at.tolist())} if len(at) <= 20 else {}
        gaps = {f"gap_{i}": slope for i, slope in enumerate(greatest.tolist())} if len(at) <= 20 else {}
        return {"at_points": at.abs().max().item(), "between": greatest.min().item(), **each, **gaps}

    @staticmethod
    def slopes(subject: Subject, points: Tensor) -> Tensor:
        """Return the derivatives at some points, in raw units."""
        rows = torch.cat(list(jacobians(subject.model, points.unsqueeze(1))))
        return rows.flatten() / subject.dataset.scale * subject.dataset.target_scale


def jacobians(model: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the exact Jacobians (B, C, D) of batches of inputs, by one vector-Jacobian product per output.

    The batches are smaller where a Jacobian is large: with 1,000 outputs one of 500 images would take gigabytes.
    """
    model.eval()
    with torch.no_grad():
        entries = model(inputs[:1]).numel() * inputs[:1].numel()
    for batch in inputs.split(max(1, min(BATCH, MOST_ENTRIES // max(1, entries)))):
        batch = batch.detach().requires_grad_()
        outputs = model(batch)
        rows = [torch.autograd.grad(column.sum(), batch, retain_graph=True)[0] for column in outputs.unbind(1)]
        yield torch.stack([row.flatten(1) for row in rows], 1).double()


def require_classes(name: str, dataset: Dataset) -> None:
    """Raise ValueError for data without classes."""
    if dataset.classes is None:
        raise ValueError(f"{name} is about classes, and this data has real values as targets: choose probe=slope")
