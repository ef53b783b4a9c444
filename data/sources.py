"""Sources that need no file: the embedded digits, and small problems of the literature on a line and in the plane."""

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.raw import Raw, Split


class Digits:
    """1,797 real handwritten digits that come with scikit-learn, brought from 8x8 to 1x28x28.

    Test set: 360 of them, always the same, spread evenly over the digits sorted by class (which stratifies).
    Source: UCI, Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998).
    """

    TEST_SIZE = 360

    def load(self) -> Raw:
        """Read the 1,437 training and 360 test digits."""
        rows = torch.from_numpy(np.loadtxt(_digits_file(), delimiter=","))  # 64 pixels from 0 to 16, and the label
        labels = rows[:, -1].long()
        small = rows[:, :-1].float().reshape(-1, 1, 8, 8) * (255 / 16)
        large = torch.nn.functional.interpolate(small, (24, 24), mode="bilinear").round().byte()
        images = torch.nn.functional.pad(large, (2, 2, 2, 2))  # a margin, as MNIST has it
        spread = torch.arange(self.TEST_SIZE) * len(labels) // self.TEST_SIZE
        test = torch.zeros(len(labels), dtype=torch.bool)
        test[labels.argsort(stable=True)[spread]] = True
        return Raw(Split(images[~test], labels[~test]), Split(images[test], labels[test]), classes=10)


def _digits_file() -> Path:
    """Return scikit-learn's file of digits, which is read without importing scikit-learn: that takes two seconds."""
    package = find_spec("sklearn")
    folders = (package.submodule_search_locations if package else None) or []
    for path in (Path(folder, "datasets", "data", "digits.csv.gz") for folder in folders):
        if path.exists():
            return path
    raise ValueError("data=digits is read from a file of scikit-learn's, which is not there: install scikit-learn")


class Line:
    """Five points 0, .25, .5, .75, 1 on the line y = x, to learn from and to test on.

    Source: the forum question "Tangent Prop".
    """

    def load(self) -> Raw:
        """Read the five points."""
        points = _points(torch.linspace(0, 1, 5), torch.linspace(0, 1, 5))
        return Raw(points, points, classes=None)


class Moons:
    """Two classes of points in the plane, each a half circle with noise, one into the other; half of them each.

    Class 0: (cos t, sin t), class 1: (1 - cos t, 1/2 - sin t), t uniform in 0 to pi, plus Gaussian noise. The classes
    take turns, so that the first n points are balanced too. 1,000 more to test on, the same for every n.

    Args:
        n: training examples (>= 1).
        noise: standard deviation of the Gaussian noise on both coordinates (>= 0).
        seed: of the points and the noise (0 to 2^32 - 1).

    Raises:
        ValueError: an argument out of range.

    Source: scikit-learn's `make_moons`, with other draws.
    """

    TEST_SIZE = 1000

    def __init__(self, n: int = 200, noise: float = 0.2, seed: int = 0) -> None:
        _check_draw(n, noise, seed)
        self.n, self.noise, self.seed = n, noise, seed

    def load(self) -> Raw:
        """Draw the points of both splits."""
        return Raw(self._drawn(self.n, stream=0), self._drawn(self.TEST_SIZE, stream=1), classes=2)

    def _drawn(self, count: int, stream: int) -> Split:
        random = np.random.RandomState([self.seed, stream])  # a stream frozen for good, as that of `Sine`
        angle, noise = random.uniform(0, math.pi, count), random.standard_normal((count, 2)) * self.noise
        labels = np.arange(count) % 2
        x = np.where(labels, 1 - np.cos(angle), np.cos(angle))
        y = np.where(labels, 0.5 - np.sin(angle), np.sin(angle))
        return Split(torch.from_numpy(np.stack([x, y], 1) + noise).float(), torch.from_numpy(labels).long())


class Plateaus:
    """Three points to be fitted with slope zero (`penalty=tangent_prop`), or each with its value on both sides, too.

    The setting of Simard, Victorri, LeCun and Denker, Tangent Prop, NIPS 4 (1991), figure 6 (a 1-20-1 net);
    the points and levels are ours. To test on: the nine distorted points, in either case.

    Args:
        distorted: train on all nine points instead of the three.
        shift: how far the distorted points are from a point, on both sides of it (> 0, finite).

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, distorted: bool = False, shift: float = 0.1) -> None:
        if not 0 < shift < math.inf:
            raise ValueError(f"shift must be positive and finite, got {shift}")
        self.distorted, self.shift = distorted, shift

    def load(self) -> Raw:
        """Read the points."""
        inputs, targets = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-0.5, 0.5, 0.0])
        shifts = torch.tensor([-self.shift, 0.0, self.shift])
        nine = _points((inputs[:, None] + shifts).flatten(), targets.repeat_interleave(3))
        return Raw(nine if self.distorted else _points(inputs, targets), nine, classes=None)


class Sine:
    """Noisy values of sin(pi x), x uniform in -1 to 1, to learn from; 201 clean ones on a grid to test on.

    Args:
        n: training examples (>= 1).
        noise: standard deviation of the Gaussian noise (>= 0).
        seed: of the points and the noise (0 to 2^32 - 1).

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, n: int = 100, noise: float = 0.1, seed: int = 0) -> None:
        _check_draw(n, noise, seed)
        self.n, self.noise, self.seed = n, noise, seed

    def load(self) -> Raw:
        """Draw the training points."""
        random = np.random.RandomState(self.seed)  # a stream frozen for good: the same points with every version
        inputs = torch.from_numpy(random.uniform(-1, 1, self.n))
        noise = torch.from_numpy(random.standard_normal(self.n)) * self.noise
        grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
        train = _points(inputs, torch.sin(math.pi * inputs) + noise)
        return Raw(train, _points(grid, torch.sin(math.pi * grid)), classes=None)


def _check_draw(n: int, noise: float, seed: int) -> None:
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be 0 or more and finite, got {noise}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be 0 to {2**32 - 1}, got {seed}")


def _points(inputs: Tensor, targets: Tensor) -> Split:
    return Split(inputs.float().unsqueeze(1), targets.float().unsqueeze(1))
