"""Adversarial inputs: gradient ascent on the losses, within a box about each input."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from data.dataset import Dataset


def attacked(
    inputs: Tensor, losses: Callable[[Tensor], Tensor], dataset: Dataset, size: float, steps: int, generator: Generator
) -> Tensor:
    """Return inputs changed within [-size, size] so that their losses grow.

    x <- clip(x + step * sign(d losses / d x)). One step of full size from the input itself is FGSM; more start at a
    random point of the box and take steps of 2.5 * size / steps (PGD). No input leaves the range of the data, where
    that is known: images stay images. No gradient but that of the inputs is computed.

    Args:
        inputs: (B, *I), as the network sees them.
        losses: (B, *I) -> (B,), of a model that does not mix examples.
        dataset: its normalisation and its range.
        size: greatest change (>= 0), as a fraction of the range; in raw units where that is not known.
        steps: of gradient ascent (>= 1).
        generator: for the random start.

    Source: Goodfellow, Shlens, Szegedy 2014, arXiv 1412.6572; Madry et al. 2017, arXiv 1706.06083.
    """
    radius = size * dataset.unit / dataset.scale
    low, high = inputs - radius, inputs + radius
    if dataset.range is not None:
        least, most = ((limit - dataset.offset) / dataset.scale for limit in dataset.range)
        low, high = torch.maximum(low, least), torch.minimum(high, most)
    moved, step = inputs, radius
    if steps > 1:
        start = inputs.new_empty(inputs.shape).uniform_(-1, 1, generator=generator)
        moved, step = _clipped(inputs + radius * start, low, high), radius * 2.5 / steps
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (ascent,) = torch.autograd.grad(losses(moved).sum(), moved)
        moved = _clipped(moved.detach() + step * ascent.sign(), low, high)
    return moved


def _clipped(inputs: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(inputs, low), high)
