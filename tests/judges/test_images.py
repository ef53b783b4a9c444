"""Rotations, shifts and tangents of images, against scipy.ndimage; images that are square, wide, of colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, nn

from data import Dataset, Split, Tangents
from losses import CrossEntropy
from runner.evaluation import Rotation, Shift
from runner.evaluation.probes import Subject

pytestmark = pytest.mark.sample
SHAPES = [(1, 8, 8), (3, 20, 40), (1, 15, 9)]
OFFSET, SCALE = 31.0, 47.0


def images_of(shape: tuple[int, ...], count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, *shape)).astype(float)


def subject(images: np.ndarray, offset: np.ndarray, scale: np.ndarray) -> Subject:
    inputs = torch.from_numpy((images - offset) / scale)
    split = Split(inputs, torch.zeros(len(images), dtype=torch.long))
    data = Dataset(split, None, split, 2, torch.as_tensor(offset), torch.as_tensor(scale), (0.0, 255.0))
    return Subject(nn.Identity(), CrossEntropy(), data, Generator())


def named(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [10, 35.5])
def test_rotation(judged: Callable[..., None], shape: tuple[int, ...], angle: float, component: bool) -> None:
    about, images = normalised(shape, component)
    found = Rotation([angle]).perturbed(about, about.dataset.test, angle)
    options = {"axes": (2, 3), "reshape": False, "order": 1, "mode": "grid-constant"}
    expected = [ndimage.rotate(images, turn, **options) for turn in (angle, -angle)]  # type: ignore[arg-type]
    judged("rotation", "scipy.ndimage.rotate", named(shape), nearest(about, found, expected))


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pixels", [1, 2.5])
def test_shift(judged: Callable[..., None], shape: tuple[int, ...], pixels: float, component: bool) -> None:
    about, images = normalised(shape, component)
    found = Shift([pixels]).perturbed(about, about.dataset.test, pixels)
    moves = [(0, 0, 0, pixels), (0, 0, 0, -pixels), (0, 0, pixels, 0), (0, 0, -pixels, 0)]
    expected = [ndimage.shift(images, move, order=1, mode="grid-constant") for move in moves]
    judged("shift", "scipy.ndimage.shift", named(shape), nearest(about, found, expected))


def normalised(shape: tuple[int, ...], component: bool) -> tuple[Subject, np.ndarray]:
    images = images_of(shape)
    offset, scale = normalisation(shape, component)
    return subject(images, offset, scale), images


def normalisation(shape: tuple[int, ...], component: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    size = shape if component else ()
    return OFFSET + random.random(size) * 40, SCALE + random.random(size) * 40


def nearest(about: Subject, found: list[torch.Tensor], expected: list[np.ndarray]) -> float:
    """Return the largest difference; the directions may come in any order, each once."""
    raw = [(inputs * about.dataset.scale + about.dataset.offset).numpy() for inputs in found]
    table = np.array([[difference(ours, theirs) for theirs in expected] for ours in raw])
    assert sorted(table.argmin(1)) == list(range(len(expected)))
    return float(table.min(1).max())


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.9, 1.4])
def test_tangents(judged: Callable[..., None], shape: tuple[int, ...], sigma: float, component: bool) -> None:
    """Of the raw image, by scipy's Gaussian derivatives, brought to the network's units and to a mean norm of 1."""
    images = images_of(shape)
    offset, scale = normalisation(shape, component)
    inputs = torch.from_numpy((images - offset) / scale)
    tangents = Tangents(sigma=sigma).fit(inputs, torch.as_tensor(offset), torch.as_tensor(scale))
    ours = tangents(inputs).numpy()

    gx, gy = (
        ndimage.gaussian_filter(images, sigma, order=order, mode="nearest", axes=(2, 3), truncate=4.0)
        for order in ((0, 1), (1, 0))
    )
    y, x = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in shape[1:]), indexing="ij")
    moved = [gx, gy, x * gx + y * gy, y * gx - x * gy, x * gx - y * gy, y * gx + x * gy, gx**2 + gy**2]
    theirs = np.stack([tangent / scale for tangent in moved])
    theirs /= np.sqrt((theirs**2).sum((2, 3, 4))).mean(1)[:, None, None, None, None]
    case = f"{named(shape)}, normalize={'component' if component else 'scalar'}"
    judged("tangents of images", "scipy.ndimage.gaussian_filter", case, difference(ours, theirs))

    signs = torch.from_numpy(np.random.default_rng(2).choice([-1.0, 1.0], size=(7, len(images))))
    mixed = np.einsum("kn,kn...->n...", signs.numpy(), theirs)
    value = difference(tangents.combined(inputs, signs).numpy(), mixed)
    judged("tangents of images, mixed", "scipy.ndimage.gaussian_filter", case, value)
