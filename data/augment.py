"""Augmentations: the inputs of each mini-batch change before the forward pass; the targets stay.

Shapes: B batch, C channels, K transformations, *I one input.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import grid_sample

from data.attack import attacked
from data.dataset import Dataset
from data.raw import Split
from data.tangents import FIELDS, coordinates, filters

SMOOTHING = 0.9  # pixels; of the image whose gradient thickens it, as for the tangents
SIZES = MappingProxyType(
    {
        "translation_x": 1,
        "translation_y": 1,
        "scaling": 0.1,
        "rotation": 10,
        "axis_hyperbolic": 0.1,
        "diagonal_hyperbolic": 0.1,
        "thickness": 0.3,
    }
)


class Augmentation(ABC):
    """Changes the inputs of each mini-batch before the forward pass.

    The data loss and every penalty see the changed inputs; evaluations see the data as it is.
    """

    def fit(self, dataset: Dataset) -> Self:
        """Take what it needs of the data, and return self.

        Raises:
            ValueError: the data does not suit it.
        """
        return self

    @abstractmethod
    def __call__(
        self, batch: Split, model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], generator: Generator
    ) -> Tensor:
        """Return the changed inputs, (B, *I), without a graph.

        Args:
            batch: inputs as the network sees them, and targets. They must not be changed in place.
            model: as it is now, in training mode; it must be left so, with all its state.
            criterion: (outputs, targets) -> losses (B,).
            generator: the only source of random numbers, on the device of the inputs.
        """


class Unchanged(Augmentation):
    """Leaves the inputs as they are."""

    def __call__(self, batch: Split, *_: object) -> Tensor:
        return batch.inputs


class GaussianNoise(Augmentation):
    """Adds noise, x + sigma * n with n standard normal.

    In expectation it is close to a penalty: E l(x + sigma n) = l(x) + sigma^2 / 2 * tr(d^2 l / dx^2) + O(sigma^4).
    For a linear model with the sum of squares that is exactly l(x) + sigma^2 ||J||_F^2, the penalty `Jacobian` with
    weight sigma^2.

    Args:
        sigma: standard deviation, in units of the normalised inputs (finite, >= 0).

    Raises:
        ValueError: sigma outside its range.

    Source: Bishop 1995, Training with noise is equivalent to Tikhonov regularization.
    """

    def __init__(self, sigma: float = 0.1) -> None:
        _not_negative("sigma", sigma)
        self.sigma = sigma

    def __call__(self, batch: Split, model: object, criterion: object, generator: Generator) -> Tensor:
        inputs = batch.inputs
        noise = torch.randn(inputs.shape, dtype=inputs.dtype, device=inputs.device, generator=generator)
        return inputs + self.sigma * noise


class Distortion(Augmentation):
    """Transforms each image at random, by the seven transformations of the tangents.

    The new image at p = (1, X, Y) is the old one at exp(sum_k a_k A_k) p + a_t g(X, Y): A_k is the velocity field of
    transformation k (`data.tangents.FIELDS`), g the gradient of the smoothed image, divided by its greatest length
    in that image, and X, Y are in pixels from the centre. Each a is uniform in [-size, size], drawn for each image.
    The derivative by a_k at 0 is the tangent t_k, up to its scale and its smoothing, so this is what `TangentProp`
    approximates to first order. Between pixels bilinear; beyond the border the last pixel goes on.

    Args:
        names: the transformations wanted (None: all that have a size).
        sizes: name -> greatest amount (finite, >= 0): translations in pixels; scaling and hyperbolic transformations
            as fractions (0.1: a tenth longer or shorter); rotation in degrees; thickness in pixels, where the image
            is steepest.
        scale: factor of all sizes (finite, >= 0), for a sweep that tunes them together.

    Raises:
        ValueError: a name that is not one of FIELDS or has no size, or a number outside its range; in `fit`, data
            that is not images.

    Source: Simard, Victorri, LeCun, Denker, Tangent Prop, NIPS 4 (1991), which compares both; the transformations:
    Simard, LeCun, Denker, Victorri, Transformation invariance in pattern recognition (1998).
    """

    def __init__(
        self, names: Sequence[str] | None = None, sizes: Mapping[str, float] = SIZES, scale: float = 1.0
    ) -> None:
        _not_negative("scale", scale)
        for name, size in sizes.items():
            _not_negative(f"sizes.{name}", size)
        self.names = list(sizes) if names is None else list(names)
        for option, found in (("sizes", sizes), ("names", self.names)):
            unknown = [name for name in found if name not in FIELDS]
            if unknown or not found:
                raise ValueError(f"{option} must be of {', '.join(FIELDS)}, got {', '.join(unknown) or 'none'}")
        missing = [name for name in self.names if name not in sizes]
        if missing:
            raise ValueError(f"sizes must have a number for each of names, got none for {', '.join(missing)}")
        units = {"rotation": math.pi / 180}
        self.amounts = [scale * sizes[name] * units.get(name, 1) for name in self.names]

    def fit(self, dataset: Dataset) -> Self:
        if len(dataset.shape) != 3:
            raise ValueError(f"distortion is about images, and this data has inputs of shape {_shape(dataset)}")
        like, (_, height, width) = dataset.train.inputs, dataset.shape
        self._offset, self._scale = dataset.offset, dataset.scale
        self._coordinates = coordinates(height, width, like)
        fields = torch.tensor([FIELDS[name] for name in self.names]).to(like)
        self._fields = torch.cat((torch.zeros_like(fields[:, :1]), fields), 1).flatten(1)  # (K, 3 * 3), on (1, X, Y)
        self._sizes = torch.tensor(self.amounts).to(like)
        self._down, self._across = filters(height, SMOOTHING, like), filters(width, SMOOTHING, like)
        return self

    @torch.no_grad()
    def __call__(self, batch: Split, model: object, criterion: object, generator: Generator) -> Tensor:
        inputs = batch.inputs
        drawn = torch.rand(len(inputs), len(self.names), device=inputs.device, generator=generator).to(inputs)
        amounts = self._sizes * (2 * drawn - 1)
        if self._scale.dim() == 0:  # the same as of raw images, since the weights of the pixels sum to 1
            return self.transformed(inputs, amounts)
        return (self.transformed(inputs * self._scale + self._offset, amounts) - self._offset) / self._scale

    def transformed(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Return images (B, C, H, W) transformed by amounts (B, K), angles in radians."""
        count, channels, height, width = images.shape
        maps = torch.matrix_exp((amounts @ self._fields).view(-1, 3, 3))
        places = (maps[:, 1:] @ self._coordinates).view(count, 1, 2, height, width).expand(-1, channels, -1, -1, -1)
        if "thickness" in self.names:
            amount = amounts[:, self.names.index("thickness")]
            places = places + amount.view(-1, 1, 1, 1, 1) * self._directions(images)
        # From pixels from the centre to -1 and 1 at the outer edges; each channel by itself, as for the tangents.
        grid = places.movedim(2, -1).flatten(0, 1) * 2 / torch.tensor([width, height]).to(images)
        planes = images.reshape(-1, 1, height, width)
        moved = grid_sample(planes, grid, padding_mode="border", align_corners=False)
        return torch.empty_like(images).copy_(moved.view(images.shape))  # in the images' own memory layout

    def _directions(self, images: Tensor) -> Tensor:
        """Return the gradients of the smoothed images, (B, C, 2, H, W), the longest of each image of length 1."""
        (smooth_down, differ_down), (smooth_across, differ_across) = self._down, self._across
        along_x, along_y = smooth_down @ (images @ differ_across.T), differ_down @ (images @ smooth_across.T)
        gradients = torch.stack((along_x, along_y), 2)
        longest = gradients.norm(dim=2).amax((1, 2, 3)).view(-1, 1, 1, 1, 1)
        return gradients / torch.where(longest == 0, 1, longest)


class Adversarial(Augmentation):
    """Changes each input within [-size, size] so that its loss grows: adversarial training.

    min over weights of the mean of max_{|d| <= size} l(x + d), the inner maximum by `data.attack.attacked` on the model
    as it is at this step. For the attack the model is in evaluation mode (running statistics of batch norm, no
    dropout), so that neither these statistics nor dropout's random numbers change; the step itself is an ordinary one.

    Args:
        size: greatest change, as a fraction of the range; in raw units where that is not known (finite, >= 0).
        steps: of gradient ascent (>= 1): 1 is FGSM, more are PGD from a random start. Each costs about a step of
            training.

    Raises:
        ValueError: an argument outside its range.

    Source: Madry et al. 2018, arXiv 1706.06083, section 2; FGSM: Goodfellow, Shlens, Szegedy 2014, arXiv 1412.6572.
    """

    def __init__(self, size: float = 0.1, steps: int = 5) -> None:
        _not_negative("size", size)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.size, self.steps = size, steps

    def fit(self, dataset: Dataset) -> Self:
        self._dataset = dataset
        return self

    def __call__(
        self, batch: Split, model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], generator: Generator
    ) -> Tensor:
        def losses(inputs: Tensor) -> Tensor:
            return criterion(model(inputs), batch.targets)

        model.eval()
        inputs = attacked(batch.inputs, losses, self._dataset, self.size, self.steps, generator)
        model.train()
        return inputs


def _not_negative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def _shape(dataset: Dataset) -> str:
    return "x".join(map(str, dataset.shape))
