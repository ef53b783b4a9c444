"""Probes of robustness: the test error after the inputs were perturbed.

Sizes are fractions of the range of the inputs (0 to 1, whatever the normalisation), or raw units where it is unknown.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from data import Dataset, Split
from data.attack import attacked
from runner.evaluation.evaluate import BATCH, evaluate
from runner.evaluation.probes import Probe, Subject, require_classes


class Perturbation(Probe):
    """The error on perturbed test examples, for each of some sizes.

    Args:
        sizes: of the perturbation (each >= 0).
        examples: how many test examples, the first ones (>= 1; null: all).
    """

    images_only = False

    def __init__(self, sizes: Sequence[float], examples: int | None = None) -> None:
        super().__init__(examples)
        if not sizes or not all(0 <= size < float("inf") for size in sizes):
            raise ValueError(f"sizes must be a list of finite numbers of at least 0, got {list(sizes)}")
        self.sizes = list(sizes)

    def check(self, dataset: Dataset) -> None:
        require_classes(type(self).__name__.lower(), dataset)
        if self.images_only and len(dataset.shape) != 3:
            shape = "x".join(map(str, dataset.shape))
            raise ValueError(
                f"{type(self).__name__.lower()} is about images, and this data has inputs of shape {shape}"
            )

    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        return {f"{size:g}": self.error(subject, size) for size in self.sizes}

    def error(self, subject: Subject, size: float) -> float:
        """Return the error after a perturbation of one size; the mean over its directions."""
        split = self.test_split(subject)
        errors = []
        for inputs in self.perturbed(subject, split, size):
            perturbed = Split(inputs, split.targets)
            errors.append(evaluate(subject.model, subject.criterion, perturbed, subject.dataset.classes).error or 0.0)
        return sum(errors) / len(errors)

    @abstractmethod
    def perturbed(self, subject: Subject, split: Split, size: float) -> list[Tensor]:
        """Return the perturbed inputs, once for each direction."""


class Noise(Perturbation):
    """Gaussian noise of the given standard deviations, not clipped."""

    def perturbed(self, subject: Subject, split: Split, size: float) -> list[Tensor]:
        noise = torch.randn(split.inputs.shape, generator=subject.generator, device=split.inputs.device)
        return [split.inputs + size * subject.dataset.unit / subject.dataset.scale * noise]


class Shift(Perturbation):
    """Shifts by the given numbers of pixels, left, right, up and down; black comes in."""

    images_only = True

    def perturbed(self, subject: Subject, split: Split, size: float) -> list[Tensor]:
        height, width = split.inputs.shape[-2:]
        directions = [(1, 0), (-1, 0), (0, 1), (0, -1)]
        moves = [[[1, 0, 2 * size * x / width], [0, 1, 2 * size * y / height]] for x, y in directions]
        return [warped(split.inputs, move, subject.dataset) for move in moves]


class Rotation(Perturbation):
    """Rotations about the centre by the given angles, in degrees, either way; black comes in."""

    images_only = True

    def perturbed(self, subject: Subject, split: Split, size: float) -> list[Tensor]:
        height, width = split.inputs.shape[-2:]
        cos, sin = math.cos(math.radians(size)), math.sin(math.radians(size))
        # In coordinates that run from -1 to 1 over the width and the height, a turn of pixels is not one of numbers.
        turns = [[[cos, -s * (height / width), 0], [s * (width / height), cos, 0]] for s in (sin, -sin)]
        return [warped(split.inputs, turn, subject.dataset) for turn in turns]


class Attack(Perturbation):
    """A perturbation of each input within [-size, size], found by gradient ascent on the loss.

    No input leaves the range of the data, where that is known: images stay images.

    Args:
        sizes: greatest change of a pixel (each >= 0).
        steps: of projected gradient ascent (>= 1). One step of full size from the input itself is FGSM; more start
            at a random point and take steps of 2.5 * size / steps (PGD).
        examples: how many test examples, the first ones (>= 1; null: all).

    Source: Goodfellow, Shlens, Szegedy 2014, arXiv 1412.6572; Madry et al. 2017, arXiv 1706.06083.
    """

    def __init__(self, sizes: Sequence[float], steps: int = 1, examples: int | None = None) -> None:
        super().__init__(sizes, examples)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps = steps

    def perturbed(self, subject: Subject, split: Split, size: float) -> list[Tensor]:
        batches = zip(split.inputs.split(BATCH), split.targets.split(BATCH), strict=True)
        return [torch.cat([self.ascend(subject, inputs, targets, size) for inputs, targets in batches])]

    def ascend(self, subject: Subject, inputs: Tensor, targets: Tensor, size: float) -> Tensor:
        """Return the perturbed inputs of one batch."""

        def losses(moved: Tensor) -> Tensor:
            return subject.criterion(subject.model(moved), targets)

        return attacked(inputs, losses, subject.dataset, size, self.steps, subject.generator)


def warped(inputs: Tensor, matrix: list[list[float]], data: Dataset) -> Tensor:
    """Return images resampled through a map of centred coordinates, the range's least coming in from outside."""
    theta = torch.tensor(matrix, dtype=inputs.dtype, device=inputs.device).expand(len(inputs), 2, 3)
    grid = affine_grid(theta, list(inputs.shape), align_corners=False)
    black = data.offset if data.range is None else data.offset - data.range[0]
    raw = inputs * data.scale + black
    return (grid_sample(raw, grid, align_corners=False) - black) / data.scale
