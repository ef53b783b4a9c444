"""From what a source read to what a run uses: split, normalised once, on the device."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.files import DataError

Normalization = Literal["scalar", "component", "none"]


@dataclass(frozen=True)
class Split:
    """Examples: inputs (N, *I) and targets, class numbers (N,) int64 or values (N, C) float32."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Tensor | slice) -> "Split":
        return Split(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class Raw:
    """What a source reads, on the CPU: images uint8 (N, C, H, W), other inputs float32.

    classes: number of classes, or None for a regression

    Raises DataError where the parts do not fit together.
    """

    train: Split
    test: Split
    classes: int | None

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("test", self.test)):
            if fault := _fault(part, self.classes):
                raise DataError(f"the {name} set {fault}")
        for kind in ("inputs", "targets"):
            shapes = [tuple(getattr(part, kind).shape[1:]) for part in (self.train, self.test)]
            if shapes[0] != shapes[1]:
                raise DataError(f"training and test {kind} must have the same shape, got {shapes[0]} and {shapes[1]}")


@dataclass(frozen=True)
class Dataset:
    """A data set as a run uses it: all parts on one device, inputs float32.

    inputs = (raw inputs - offset) / scale, with both taken from the training part alone (scalars, or of the
    shape of one example), so that a figure in units of the raw data can be converted; `unit` is the range of
    a raw image, 255 for bytes, and 1 for all other data.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: int | None
    offset: Tensor
    scale: Tensor
    unit: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape *I of one example."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """How many outputs a model needs: the classes, or the values to be regressed."""
        return self.classes or self.train.targets.shape[1]


def prepare(
    raw: Raw,
    *,
    train_size: int | None = None,
    validation_size: int | None = None,
    normalize: Normalization = "scalar",
    label_noise: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Dataset:
    """Split, spoil and normalise what a source has read, and put it on the device.

    train_size:      the first n training examples (1 to all; None: all)
    validation_size: examples to validate on (0 or more; None: a tenth of the training examples), drawn from
                     the training examples beyond `train_size` if these are enough, else taken out of the
                     first `train_size`; never from the test set
    normalize:       subtract the mean and divide by the standard deviation of the training part, `scalar`:
                     one of each over everything; `component`: one for each pixel or feature; `none`: leave
                     them as they are (images: divided by 255)
    label_noise:     fraction of the training labels, and of these alone, that are replaced by another
                     class, uniformly among the others (0 to 1; classes only)
    seed:            of the validation set and of the label noise, drawn apart, on the CPU (0 or more)

    Raises ValueError, one sentence starting with the argument's name.
    """
    _check(raw, train_size, normalize, label_noise, seed)
    chosen, kept_back = _split(len(raw.train), train_size, validation_size, seed)
    train = raw.train[chosen]
    if label_noise:
        assert raw.classes is not None
        train = Split(train.inputs, _mislabel(train.targets, raw.classes, label_noise, seed))
    offset, scale = (value.to(device) for value in _statistics(train.inputs, normalize))

    def ready(part: Split) -> Split:
        inputs = part.inputs.to(device).to(torch.float32, copy=True)
        return Split(inputs.sub_(offset).div_(scale), part.targets.to(device))

    validation = ready(raw.train[kept_back]) if len(kept_back) else None
    unit = 255.0 if train.inputs.dtype == torch.uint8 else 1.0
    return Dataset(ready(train), validation, ready(raw.test), raw.classes, offset, scale, unit)


def _fault(part: Split, classes: int | None) -> str | None:
    """What is wrong with a part, in words, or None."""
    inputs, targets = part.inputs, part.targets
    if len(inputs) == 0:
        return "is empty"
    if len(inputs) != len(targets):
        return f"has {len(inputs)} inputs and {len(targets)} targets"
    if inputs.is_floating_point() and not inputs.isfinite().all():
        return "has inputs that are nan or infinite"
    if classes is None:
        if targets.dtype != torch.float32 or targets.dim() != 2:
            return f"must have float32 targets (N, C), got {targets.dtype} {tuple(targets.shape)}"
        return None if targets.isfinite().all() else "has targets that are nan or infinite"
    if targets.dtype != torch.int64 or targets.dim() != 1:
        return f"must have int64 labels (N,), got {targets.dtype} {tuple(targets.shape)}"
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        return f"must have labels 0 to {classes - 1}, got {low} to {high}"
    return None


def _check(raw: Raw, train_size: int | None, normalize: str, label_noise: float, seed: int) -> None:
    available = len(raw.train)
    if train_size is not None and not 1 <= train_size <= available:
        raise ValueError(f"train_size must be 1 to {available} (all) or null, got {train_size}")
    if normalize not in ("scalar", "component", "none"):
        raise ValueError(f"normalize must be scalar, component or none, got {normalize}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be a fraction, 0 to 1, got {label_noise}")
    if label_noise and (raw.classes is None or raw.classes < 2):
        raise ValueError(f"label_noise must be 0 where there are no two classes, got {label_noise}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")


def _generator(seed: int, stream: int) -> torch.Generator:
    """A CPU generator of its own for each use, so that one option does not change what another draws."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def _split(available: int, train_size: int | None, validation_size: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation part, both in ascending order."""
    first = available if train_size is None else train_size
    held = first // 10 if validation_size is None else validation_size
    beyond = available - first
    most = max(first - 1, beyond)
    if not 0 <= held <= most:
        where = f"with {first} of {available} examples to train on"
        raise ValueError(f"validation_size must be 0 to {most} {where}, or null, got {held}")
    generator = _generator(seed, 0)
    if held <= beyond:
        drawn = first + torch.randperm(beyond, generator=generator)[:held]
        return torch.arange(first), drawn.sort().values
    order = torch.randperm(first, generator=generator)
    return order[held:].sort().values, order[:held].sort().values


def _mislabel(labels: Tensor, classes: int, fraction: float, seed: int) -> Tensor:
    """Replace exactly round(fraction * N) labels, each by one of the classes - 1 others."""
    generator = _generator(seed, 1)
    wrong = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    steps = torch.randint(1, classes, (len(wrong),), generator=generator)
    return labels.index_copy(0, wrong, (labels[wrong] + steps) % classes)


def _statistics(inputs: Tensor, normalize: str) -> tuple[Tensor, Tensor]:
    """What to subtract and what to divide by, float32.

    Summed in float64 about one of the values: exact for bytes, hence the same digits with any number of
    threads, and good for features far from zero.
    """
    if normalize == "none":
        return torch.tensor(0.0), torch.tensor(255.0 if inputs.dtype == torch.uint8 else 1.0)
    rows = inputs.flatten(1) if normalize == "component" else inputs.reshape(-1, 1)
    origin, count = rows[0].double(), len(rows)
    total = torch.zeros_like(origin)
    squares = torch.zeros_like(origin)
    for block in rows.split(max(1, 4_000_000 // rows.shape[1])):
        moved = block.double() - origin
        total += moved.sum(0)
        squares += moved.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation[deviation == 0] = 1.0  # a constant component becomes 0, not nan
    shape = inputs.shape[1:] if normalize == "component" else ()
    return (mean + origin).reshape(shape).float(), deviation.reshape(shape).float()
