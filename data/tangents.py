"""Tangent vectors: how an example moves under small transformations that its target is known to follow.

Shapes: B batch, K tangents, *I one example: (C, H, W) for images, (1,) for points on a line.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor

# Each image tangent as a velocity field (u, v) of the coordinates: t = u Gx + v Gy, with (u, v) linear in
# (1, X, Y), written as ((u_1, u_X, u_Y), (v_1, v_X, v_Y)). Thickness, the only one that is not linear in the
# image's derivatives, is Gx^2 + Gy^2.
FIELDS = {
    "translation_x": ((1, 0, 0), (0, 0, 0)),
    "translation_y": ((0, 0, 0), (1, 0, 0)),
    "scaling": ((0, 1, 0), (0, 0, 1)),
    "rotation": ((0, 0, 1), (0, -1, 0)),
    "axis_hyperbolic": ((0, 1, 0), (0, 0, -1)),
    "diagonal_hyperbolic": ((0, 0, 1), (0, 1, 0)),
    "thickness": ((0, 0, 0), (0, 0, 0)),
}


class Tangents:
    """Tangents t_1(x), ..., t_K(x) of images or of points on a line, in the units of the network's inputs.

    Images: how the raw image moves, brought to those units (divided by `scale`, pixel by pixel). From the
    derivatives Gx, Gy of the Gaussian-smoothed image, channel by channel, in pixels X (to the right) and Y (down)
    from the centre: translations Gx, Gy; scaling X Gx + Y Gy; rotation Y Gx - X Gy; axis hyperbolic X Gx - Y Gy;
    diagonal hyperbolic Y Gx + X Gy; thickness Gx^2 + Gy^2. Each is divided by its mean norm over the examples given
    to `fit`, once: were it over the batch, an example's tangent would depend on its neighbours.
    Points: the one tangent 1, along which a function's derivative is its slope.

    Args:
        names: the image tangents wanted, of FIELDS (None: all seven); must be None for points.
        sigma: width of the smoothing (pixels, > 0).
        derivatives: for points, the wanted slope of the outputs (finite; per unit of the raw input): one number for
            all, or one for each example given to `fit`, looked up by the nearest of these (None: 0); None for images.

    Raises:
        ValueError: an argument out of range, or, in `fit`, one that does not suit the data; one sentence that
            starts with the argument's name.

    Source: Simard, Victorri, LeCun, Denker, Tangent Prop, NIPS 4 (1991); the seven transformations: Simard, LeCun,
    Denker, Victorri, Transformation invariance in pattern recognition (1998).
    """

    def __init__(
        self,
        names: list[str] | None = None,
        sigma: float = 0.9,
        derivatives: float | list[float] | None = None,
    ) -> None:
        _check(names, sigma, derivatives)
        self.names, self.sigma, self.derivatives = names, sigma, derivatives
        self.shape: tuple[int, ...] | None = None

    def fit(self, inputs: Tensor, offset: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Self:
        """Take norms (images) or places (points) from the training inputs, and return self.

        All tangents live on the device and in the precision of these inputs.

        Args:
            inputs: (N, *I), as the network sees them: (raw - offset) / scale.
            offset, scale: of the normalisation, one number each or of shape *I (`Dataset.offset`, `Dataset.scale`).

        Raises:
            ValueError: the options do not suit the data.
        """
        self._offset, self._scale = (torch.as_tensor(value).to(inputs) for value in (offset, scale))
        if inputs.dim() == 4:
            self._fit_images(inputs)
        elif inputs.dim() == 2 and inputs.shape[1] == 1:
            self._fit_points(inputs)
        else:
            shape = tuple(inputs.shape[1:])
            raise ValueError(f"tangents need images (C, H, W) or points (1), the data has examples {shape}")
        self.shape = tuple(inputs.shape[1:])
        return self

    def __len__(self) -> int:
        """Return how many tangents there are, K."""
        return len(self.names or FIELDS) if self.shape is None or len(self.shape) == 3 else 1

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return all tangents (K, B, *I) of inputs (B, *I)."""
        self._check_fitted(inputs)
        if inputs.dim() == 2:
            return torch.ones_like(inputs).unsqueeze(0)
        with _exactly(inputs):
            gx, gy = self._gradients(self._raw(inputs))
            u, v = (field.reshape(-1, 1, 1, *inputs.shape[2:]) for field in (self._u, self._v))
            thickness = self._thickness.reshape(-1, 1, 1, 1, 1)
            return self._normalized(u * gx + v * gy + thickness * (gx.square() + gy.square()))

    def combined(self, inputs: Tensor, signs: Tensor) -> Tensor:
        """Return sum_k signs[k, n] t_k(x_n), (B, *I), of inputs (B, *I) and signs (K, B), for the price of one."""
        self._check_fitted(inputs)
        signs = signs.T.to(inputs.dtype)
        if inputs.dim() == 2:
            return signs.clone()
        with _exactly(inputs):
            gx, gy = self._gradients(self._raw(inputs))
            # The fields are added up before they meet the image: two products with it instead of 2 K.
            u, v = ((signs @ f).reshape(len(inputs), 1, *inputs.shape[2:]) for f in (self._u, self._v))
            total = u * gx + v * gy
            if self._has_thickness:
                total += (signs @ self._thickness).reshape(-1, 1, 1, 1) * (gx.square() + gy.square())
            return self._normalized(total)

    def derivatives_at(self, inputs: Tensor) -> Tensor | None:
        """Return the given derivatives, by the network's input, (K, B, 1), at inputs (B, 1); None without any."""
        if self.derivatives is None:
            return None
        self._check_fitted(inputs)
        nearest = (inputs.detach() - self._places.T).abs().argmin(1)
        return self._slopes[nearest].reshape(1, -1, 1)

    def _check_fitted(self, inputs: Tensor) -> None:
        shape = tuple(inputs.shape[1:])
        if self.shape is None:
            raise ValueError("tangents must be fitted before use: call fit(training inputs)")
        if shape != self.shape:
            raise ValueError(f"tangents fitted to examples {self.shape} were asked for examples {shape}")

    def _fit_points(self, inputs: Tensor) -> None:
        if self.names is not None:
            raise ValueError(f"names must be null for points on a line, which only have a slope, got {self.names[0]}")
        count, given = len(inputs), self.derivatives
        slopes = [given or 0.0] * count if given is None or isinstance(given, (int, float)) else list(given)
        if len(slopes) != count:
            wanted = f"one number or {count}, one for each training example"
            raise ValueError(f"derivatives must be {wanted}, got {len(slopes)}")
        self._places = inputs.clone()
        self._slopes = torch.tensor(slopes, dtype=inputs.dtype, device=inputs.device) * self._scale

    def _fit_images(self, inputs: Tensor) -> None:
        if self.derivatives is not None:
            raise ValueError(f"derivatives must be null for images (invariances), got {self.derivatives}")
        names = list(self.names or FIELDS)
        height, width = inputs.shape[2:]
        self._down, self._across = filters(height, self.sigma, inputs), filters(width, self.sigma, inputs)
        places = coordinates(height, width, inputs)
        fields = torch.tensor([FIELDS[name] for name in names]).to(inputs)
        self._u, self._v = fields[:, 0] @ places, fields[:, 1] @ places
        self._thickness = torch.tensor([name == "thickness" for name in names]).to(inputs)
        self._has_thickness = "thickness" in names
        self.shape = tuple(inputs.shape[1:])
        norms = sum(self(block).flatten(2).norm(dim=2).sum(1) for block in inputs.split(500))
        scales = len(inputs) / torch.where(norms == 0, len(inputs), norms)  # blank images keep their tangents, 0
        self._u *= scales.unsqueeze(1)
        self._v *= scales.unsqueeze(1)
        self._thickness *= scales

    def _raw(self, images: Tensor) -> Tensor:
        return images if self._scale.dim() == 0 else images * self._scale + self._offset

    def _normalized(self, tangents: Tensor) -> Tensor:
        return tangents if self._scale.dim() == 0 else tangents / self._scale

    def _gradients(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return Gx and Gy, (B, C, H, W), each pass a product with a banded matrix: faster than a convolution."""
        (smooth_down, differ_down), (smooth_across, differ_across) = self._down, self._across
        return smooth_down @ (images @ differ_across.T), differ_down @ (images @ smooth_across.T)


@contextmanager
def _exactly(inputs: Tensor) -> Iterator[None]:
    """Without a graph, since tangents are constants of the objective, and in the inputs' own precision."""
    with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
        yield


def _check(names: list[str] | None, sigma: float, derivatives: float | list[float] | None) -> None:
    if names is not None:
        if not names:
            raise ValueError("names must hold at least one tangent or be null (all seven), got []")
        for name in names:
            if name not in FIELDS:
                raise ValueError(f"names must be among {', '.join(FIELDS)}, got {name}")
        if len(set(names)) < len(names):
            raise ValueError(f"names must differ from each other, got {', '.join(names)}")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite (pixels), got {sigma}")
    for value in derivatives if isinstance(derivatives, list) else [derivatives or 0.0]:
        if not math.isfinite(value):
            raise ValueError(f"derivatives must be finite, got {value}")


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Return rows 1, X, Y, (3, H W), in pixels from the centre."""
    y = torch.arange(height).to(like) - (height - 1) / 2
    x = torch.arange(width).to(like) - (width - 1) / 2
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((torch.ones_like(grid_x), grid_x, grid_y)).flatten(1)


def filters(size: int, sigma: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return Gaussian smoothing and its derivative as matrices (size, size).

    Beyond the border the last pixel goes on: the background of a normalised image is not 0, so that zeros
    would make an edge there.
    """
    reach = max(1, round(4 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    gauss = torch.exp(-0.5 * (offsets / sigma).square())
    smooth = gauss / gauss.sum()
    differ = offsets * gauss / (offsets.square() * gauss).sum()  # exactly 1 on a ramp of slope 1
    columns = (torch.arange(size).unsqueeze(1) + offsets.long()).clamp(0, size - 1)
    zeros = torch.zeros(size, size, dtype=torch.float64)
    smooth, differ = (zeros.scatter_add(1, columns, kernel.expand(size, -1)) for kernel in (smooth, differ))
    return smooth.to(like), differ.to(like)
