"""From what a source read to what a run uses: split, normalised once, on the device."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.facts import UNKNOWN, Facts, described
from data.raw import Range, Raw, Split

Normalization = Literal["auto", "scalar", "component", "none"]
ZERO, ONE = torch.tensor(0.0), torch.tensor(1.0)  # of targets as they are


@dataclass(frozen=True)
class Dataset:
    """A data set as a run uses it: all splits on one device, inputs float32, inputs = (raw inputs - offset) / scale.

    Args:
        train, validation, test: the splits; validation may be None.
        classes: number of classes, or None for a regression.
        offset, scale: of the normalisation, float32, from the training split alone: one number each or of shape *I.
            With them a figure in units of the raw data can be converted.
        range: lowest and highest raw input, one number each or of shape *I; None where it is not known.
        exact: offset and scale as they were applied, float64, on the CPU; with them `normalized` gives the same bits.
        target_offset, target_scale: of the targets of a regression, (C,), likewise: raw = targets * scale + offset.
        facts: what was read, for a record and a user.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: int | None
    offset: Tensor
    scale: Tensor
    range: Range | None = None
    exact: tuple[Tensor, Tensor] | None = None
    target_offset: Tensor = ZERO
    target_scale: Tensor = ONE
    facts: Facts = UNKNOWN

    @property
    def unit(self) -> float | Tensor:
        """Return the width of the range, of which sizes of noise and attacks are fractions; 1 where it is unknown."""
        return 1.0 if self.range is None else self.range[1] - self.range[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape *I of one example."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """Return how many outputs a model needs: the classes, or the values to be regressed."""
        return self.classes or self.train.targets.shape[1]

    def in_channels_last(self) -> "Dataset":
        """Return the same images in the memory layout channels last."""

        def laid_out(split: Split) -> Split:
            return Split(split.inputs.contiguous(memory_format=torch.channels_last), split.targets)

        validation = self.validation and laid_out(self.validation)
        return replace(self, train=laid_out(self.train), validation=validation, test=laid_out(self.test))


def prepare(
    raw: Raw,
    *,
    train_size: int | None = None,
    per_class: int | None = None,
    validation_size: int | None = None,
    normalize: Normalization = "scalar",
    label_noise: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Dataset:
    """Split, add label noise, normalise, and move to the device.

    Args:
        raw: what a source has read; the other arguments are those of `conf/config.yaml`.
        train_size: first n training examples (1 to all; None: all).
        per_class: first n training examples of each class, instead of `train_size` (1 to the size of the rarest class).
        validation_size: training examples to validate on (>= 0; None: a tenth), drawn from those beyond `train_size` if
            they are enough, else taken out of the first `train_size`; with `per_class` only from those beyond.
        normalize: subtract the mean and divide by the standard deviation of the training split, `scalar`: one of
            each over everything; `component`: one for each pixel or feature; `none`: neither (images: / 255); `auto`:
            images as `scalar`, sequences by channel, all else by column, the targets of a regression, too.
        label_noise: fraction of the training labels that are replaced by another class (0 to 1; classes only).
        seed: of the validation split and of the label noise, drawn apart, on the CPU (>= 0).

    Raises:
        ValueError: an argument out of range; one sentence that starts with its name.
    """
    _check(raw, train_size, per_class, validation_size, normalize, label_noise, seed)
    wanted = validation_size if raw.validation is None else 0
    chosen, held_out = _indices(raw.train, train_size, per_class, wanted, seed)
    if train_size is not None and raw.classes:
        _check_classes(raw.train.targets, raw.train.targets[chosen], train_size)
    train = _mislabel(raw.train[chosen], raw.classes, label_noise, seed)
    held = raw.train[held_out] if len(held_out) else raw.validation  # never of the test split
    return _made(raw, train, held, normalize, {"train_size": train_size, "per_class": per_class}, device)


def _made(
    raw: Raw,
    train: Split,
    validation: Split | None,
    normalize: Normalization,
    sizes: Mapping[str, int | None],
    device: torch.device | str,
) -> Dataset:
    exact = _statistics(train.inputs, _usual(raw) if normalize == "auto" else normalize)
    scales_targets = normalize == "auto" and raw.classes is None
    of_targets = _statistics(train.targets, "component") if scales_targets else (ZERO, ONE)

    def ready(split: Split) -> Split:
        targets = normalized(split.targets, *of_targets, device) if scales_targets else split.targets.to(device)
        return Split(normalized(split.inputs, *exact, device), targets)

    offset, scale, target_offset, target_scale = (value.float().to(device) for value in (*exact, *of_targets))
    return Dataset(
        ready(train),
        validation and ready(validation),
        *(ready(raw.test), raw.classes, offset, scale),
        *(_limits(raw, device), exact, target_offset, target_scale),
        described(raw, train, validation, sizes, (normalize, *exact)),
    )


def _limits(raw: Raw, device: torch.device | str) -> Range | None:
    if raw.range is None:
        return (0.0, 255.0) if raw.train.inputs.dtype == torch.uint8 else None
    low, high = (value.to(device) if isinstance(value, Tensor) else value for value in raw.range)
    return low, high


def _check(
    raw: Raw,
    train_size: int | None,
    per_class: int | None,
    validation_size: int | None,
    normalize: str,
    label_noise: float,
    seed: int,
) -> None:
    available = len(raw.train)
    if train_size is not None and not 1 <= train_size <= available:
        raise ValueError(f"train_size must be 1 to {available} (all) or null, got {train_size}")
    if per_class is not None:
        _check_per_class(raw, train_size, per_class)
    if raw.validation is not None and validation_size is not None:
        raise ValueError(
            f"validation_size must be null where the data have a split of their own, got {validation_size}"
        )
    if normalize not in ("auto", "scalar", "component", "none"):
        raise ValueError(f"normalize must be auto, scalar, component or none, got {normalize}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be a fraction, 0 to 1, got {label_noise}")
    if label_noise and (raw.classes is None or raw.classes < 2):
        raise ValueError(f"label_noise must be 0 where there are no two classes, got {label_noise}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")


def _check_per_class(raw: Raw, train_size: int | None, per_class: int) -> None:
    if raw.classes is None:
        raise ValueError(f"per_class must be null where there are no classes, got {per_class}: choose train_size")
    if train_size is not None:
        raise ValueError(f"per_class must be null beside train_size={train_size}, got {per_class}: leave one null")
    counts = raw.train.targets.bincount()
    rarest = int(counts[counts > 0].min())
    if not 1 <= per_class <= rarest:
        raise ValueError(f"per_class must be 1 to {rarest} (all of the rarest class) or null, got {per_class}")


def _check_classes(available: Tensor, chosen: Tensor, train_size: int) -> None:
    """Raise ValueError if the first examples lack classes that as many drawn at random would surely have."""
    missing = available[~torch.isin(available, chosen)]
    if len(missing) * len(chosen) >= 5 * len(available):  # five were to be expected: a chance below 1 %
        names = ", ".join(map(str, missing.unique().tolist()[:10]))
        wanted = max(1, train_size // len(available.unique()))
        raise ValueError(
            f"train_size must be such that the first examples are of all classes, got {train_size}, none of them of "
            f"class {names}: the data are sorted, choose data.per_class={wanted}"
        )


def _generator(seed: int, stream: int) -> torch.Generator:
    """Return a CPU generator of its own for each use, so that one option does not change what another draws."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def _indices(
    train: Split, train_size: int | None, per_class: int | None, validation_size: int | None, seed: int
) -> tuple[Tensor, Tensor]:
    first = torch.arange(train_size or len(train)) if per_class is None else _first_of_each(train.targets, per_class)
    beyond = torch.ones(len(train)).index_fill(0, first, 0).nonzero().flatten()
    most = max(len(first) - 1, len(beyond)) if per_class is None else len(beyond)
    held = min(len(first) // 10, most) if validation_size is None else validation_size
    if not 0 <= held <= most:
        where = f"with {len(first)} of {len(train)} examples to train on"
        raise ValueError(f"validation_size must be 0 to {most} {where}, or null, got {held}")
    generator = _generator(seed, 0)
    if held <= len(beyond):
        drawn = torch.randperm(len(beyond), generator=generator)[:held]
        return first, beyond[drawn].sort().values
    order = torch.randperm(len(first), generator=generator)
    return order[held:].sort().values, order[:held].sort().values


def _first_of_each(labels: Tensor, count: int) -> Tensor:
    return torch.cat([(labels == label).nonzero().flatten()[:count] for label in labels.unique()]).sort().values


def _mislabel(split: Split, classes: int | None, fraction: float, seed: int) -> Split:
    if not fraction or classes is None:
        return split
    generator, labels = _generator(seed, 1), split.targets
    wrong = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    steps = torch.randint(1, classes, (len(wrong),), generator=generator)
    return Split(split.inputs, labels.index_copy(0, wrong, (labels[wrong] + steps) % classes))


def _usual(raw: Raw) -> str:
    is_image = raw.range is not None and not isinstance(raw.range[0], Tensor)
    return "scalar" if is_image else {2: "component", 3: "channel"}.get(raw.train.inputs.dim(), "scalar")


def _statistics(inputs: Tensor, normalize: str) -> tuple[Tensor, Tensor]:
    """Return what to subtract and what to divide by, float64.

    Summed about one of the values: exact for bytes, hence the same digits with any number of threads, and good for
    features far from zero.
    """
    if normalize == "none":
        return torch.tensor(0.0).double(), torch.tensor(255.0 if inputs.dtype == torch.uint8 else 1.0).double()
    if normalize == "channel":
        rows, wide = inputs.transpose(1, 2).flatten(0, 1), inputs.shape[2]
        mean, deviation = _statistics(rows, "component")
        return mean[:, None].repeat(1, wide), deviation[:, None].repeat(1, wide)
    rows = inputs.flatten(1) if normalize == "component" else inputs.reshape(-1, 1)
    origin, count = rows[0].double(), len(rows)
    total = torch.zeros_like(origin)
    squares = torch.zeros_like(origin)
    for block in _blocks(rows):
        moved = block.double() - origin
        total += moved.sum(0)
        squares += moved.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation[deviation == 0] = 1.0  # a constant component becomes 0, not nan
    shape = inputs.shape[1:] if normalize == "component" else ()
    return (mean + origin).reshape(shape), deviation.reshape(shape)


def normalized(inputs: Tensor, offset: Tensor, scale: Tensor, device: torch.device | str) -> Tensor:
    """Return (inputs - offset) / scale, float32, on the device; offset and scale are float64.

    The difference is taken in float64, since float32 has only 24 bits to hold a feature that is far from zero (a year,
    a time in seconds); bytes lose nothing in float32.
    """
    if inputs.dtype == torch.uint8:
        offset, scale = offset.float().to(device), scale.float().to(device)
        return inputs.to(device).float().sub_(offset).div_(scale)
    blocks = [((block.double() - offset) / scale).float() for block in _blocks(inputs)]
    return torch.cat(blocks).to(device)


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """Return the rows in blocks of about 4 million numbers, so that a copy in float64 takes little memory."""
    return rows.split(max(1, 4_000_000 // max(1, rows[0].numel())))
