"""A user's arrays to inputs and targets: what can be recognised is taken and told, the rest refused with its remedy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.files import DataError

Array = np.ndarray[Any, Any]
Named = Mapping[str, tuple[str, Array]]  # by split, the first is training: an array's name, and the array
BYTES = 0.0, 255.0
USUAL_RANGES = (BYTES, (0.0, 1.0), (-1.0, 1.0))  # of images
NEAR = 0.05  # how far the extremes of images may be from a usual range, in its widths
MOST_CLASSES, LEAST_EXAMPLES = 20, 5  # whole numbers of more values, each of fewer examples on average, are no classes
REMEDIES = {  # for arrays that are no numbers, by numpy's letter for their kind
    "c": "{0} = np.concatenate([{0}.real, {0}.imag], 1)",
    "M": "{0} = {0}.astype('datetime64[s]').astype(np.float64)",
    "m": "{0} = {0} / np.timedelta64(1, 's')",
    "U": "{0} = {0}.astype(np.float32), if its words are numbers",
    "V": "{0} = np.stack([{0}[name] for name in {0}.dtype.names], 1)",
}


@dataclass
class Reading:
    """How arrays were taken, and what is odd about them."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def inputs_of(
    named: Named, channels: str | None, given: list[float] | None, reading: Reading
) -> tuple[dict[str, Tensor], tuple[Any, Any]]:
    """Return the inputs of all splits, and their range: two numbers for images, of other data one for each column.

    Args:
        named: the arrays.
        channels: where their channels stand, `first` or `last` (None: recognised).
        given: the range of all inputs (None: for images a usual range that they fill; else what they hold).
        reading: is told how they were taken.
    """
    for name, array in named.values():
        if array.dtype.kind not in "biuf" or not 2 <= array.ndim <= 4:
            shapes = "(N, H, W) or (N, C, H, W)" if is_image(name) else "(N, D), (N, C, L) or (N, C, H, W)"
            raise DataError(f"{name} must be numbers {shapes}, got {_kind_of(name, array)}")
        if not array.size:
            raise DataError(f"{name} is empty")
    name, first = named["train"]
    if len({array.ndim for _, array in named.values()}) > 1:
        shapes = " and ".join(str(array.shape) for _, array in named.values())
        raise DataError(f"training and test inputs must have the same shape but for N, got {shapes}")
    axis = _channel_axis(name, first, channels, reading) if first.ndim > 2 else 1
    reading.notes.append(f"{name} {first.dtype} {first.shape}")
    arrays = {split: _channels_first(array, axis) for split, (_, array) in named.items()}
    ends = {split: (float(array.min()), float(array.max())) for split, array in arrays.items()}
    seen = min(low for low, _ in ends.values()), max(high for _, high in ends.values())
    if given and not (len(given) == 2 and given[0] <= seen[0] < seen[1] <= given[1]):
        raise DataError(f"data.range must be [low,high] and hold all inputs, {seen[0]:g} to {seen[1]:g}, got {given}")
    limits: tuple[Any, Any]
    if is_image(name) or arrays["train"].ndim == 4:
        _check_scales(ends)
        arrays, limits = _images(name, arrays, given, seen, reading)
    else:
        arrays = {split: _floats(array) for split, array in arrays.items()}
        low, high = _range_of_columns(arrays)
        limits = (torch.full_like(low, given[0]), torch.full_like(high, given[1])) if given else (low, high)
    return {split: torch.from_numpy(np.ascontiguousarray(array)) for split, array in arrays.items()}, limits


def is_image(name: str) -> bool:
    """Tell whether the name of an array says images."""
    return "im" in name.lower()


def _channel_axis(name: str, array: Array, channels: str | None, reading: Reading) -> int:
    """Return the axis of the channels, which is moved to the front; 0 if there is none."""
    square = "input" not in name.lower() and (array.dtype == np.uint8 or array.shape[1] == array.shape[2] >= 8)
    if channels is None and array.ndim == 3 and (is_image(name) or square):
        reading.notes.append("no axis of channels")
        return 0
    axis, is_sure = ({"first": 1, "last": array.ndim - 1}[channels], True) if channels else _likely_axis(array.shape)
    if axis == 0:
        fix = "add data.channels=first or data.channels=last (volumes are not read)"
        raise DataError(f"{name} {array.shape} may have its channels first or last: {fix}")
    if not is_sure:
        fix = f"add data.channels={'last' if axis == 1 else 'first'} if not"
        reading.warnings.append(f"{name} {array.shape} are taken as {array.shape[axis]} channels, axis {axis}; {fix}")
    reading.notes += ["channels last"] if axis > 1 else []
    return axis


def _likely_axis(shape: tuple[int, ...]) -> tuple[int, bool]:
    """Return the axis that is likely that of the channels (0: cannot be told), and whether it can be no other."""
    if len(shape) == 3:  # sequences, which are longer than the number of their channels
        first, last = shape[1:]
        if first < last or last <= 4 < first:
            return (1 if first < last else 2), True
        return int(first == last or first <= 4), False
    first, last = ((size in (1, 3)) + (size <= 4) for size in (shape[1], shape[3]))  # 2: usual, 1: possible, 0: hardly
    if first != last:
        return (1 if first > last else 3), 0 in (first, last)
    return int(shape[1] == shape[3] if first else shape[1] != shape[2] == shape[3]), False


def _channels_first(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, 1) if axis else array[:, None]


def _usual_range(low: float, high: float) -> tuple[float, float]:
    for least, most in USUAL_RANGES:
        room = NEAR * (most - least)
        if least <= low <= least + room and most - room <= high <= most:
            return least, most
    return low, high


def _check_scales(ends: Mapping[str, tuple[float, float]]) -> None:
    widest = max(ends, key=lambda split: ends[split][1] - ends[split][0])
    for split, (low, high) in ends.items():
        if low == high:
            raise DataError(f"the images of the {split} split are {low:g} everywhere: write the file anew")
        if 20 * (high - low) < ends[widest][1] - ends[widest][0]:
            both = f"{low:g} to {high:g} and those of the {widest} split to {ends[widest][1]:g}"
            raise DataError(f"the images of the {split} split go from {both}: bring both to one scale, images / 255")


def _images(
    name: str, arrays: dict[str, Array], given: list[float] | None, seen: tuple[float, float], reading: Reading
) -> tuple[dict[str, Array], tuple[float, float]]:
    low, high = given or _usual_range(*seen)
    if all(array.dtype == np.uint8 for array in arrays.values()):
        if not given and seen[1] < 128:
            fix = f"add data.range=[0,{seen[1]:g}] if that is white"
            reading.warnings.append(f"{name} are bytes, 0 to 255, and none is above {seen[1]:g}: {fix}")
        return arrays, (float(low), float(high)) if given else BYTES
    if (low, high) == BYTES and all((array == array.astype(np.uint8)).all() for array in arrays.values()):
        reading.notes.append("taken as bytes")
        return {split: array.astype(np.uint8) for split, array in arrays.items()}, BYTES
    reading.notes.append(f"range {low:.4g} to {high:.4g}")
    return {split: _floats(array) for split, array in arrays.items()}, (float(low), float(high))


def _range_of_columns(arrays: Mapping[str, Array]) -> tuple[Tensor, Tensor]:
    """Return the range of each column, (D,), or of each channel of sequences, (C, 1)."""
    axes = 0 if arrays["train"].ndim == 2 else (0, 2)
    low = np.min([array.min(axes, keepdims=True)[0] for array in arrays.values()], 0)
    high = np.max([array.max(axes, keepdims=True)[0] for array in arrays.values()], 0)
    return torch.from_numpy(low).float(), torch.from_numpy(high).float()


def _floats(array: Array) -> Array:
    return array.astype(np.float32 if np.can_cast(array.dtype, np.float32) else np.float64)  # until it is normalised


def targets_of(named: Named, reading: Reading) -> tuple[dict[str, Tensor], int | None]:
    """Return labels (N,) int64 and the number of classes, or values (N, C) float32 and None, of all splits."""
    name = named["train"][0]
    is_label = any(word in name.lower() for word in ("label", "class"))
    arrays = {split: _plain(own, array, is_label, named, reading) for split, (own, array) in named.items()}
    train = arrays["train"]
    if all(map(_is_one_hot, arrays.values())) and not (train.dtype.kind == "f" and "target" in name.lower()):
        reading.notes.append("labels one-hot")
        return {split: torch.from_numpy(array.argmax(1)) for split, array in arrays.items()}, train.shape[1]
    if train.ndim == 2 and (is_label or train.dtype.kind != "f"):
        fix = f"{name.replace('label', 'target')} = {name}.astype(np.float32)"
        raise DataError(f"{name} {train.shape} must be (N,) or one-hot; for several values of each example: {fix}")
    if len({array.dtype.kind == "f" for array in arrays.values()}) > 1:
        raise DataError("training and test targets must both be integers or both be floats")
    if train.dtype.kind == "f":
        few = np.unique(train[:1000])
        if _is_one_hot(train) or (train.ndim == 1 and len(few) <= MOST_CLASSES and (few == np.arange(len(few))).all()):
            reading.warnings.append(f"{name} look like classes and are taken as values; for classes call them labels")
        return {s: torch.from_numpy(a.astype(np.float32).reshape(len(a), -1)) for s, a in arrays.items()}, None
    _check_classes(name, is_label, arrays, named)
    return {split: torch.from_numpy(array.astype(np.int64)) for split, array in arrays.items()}, int(train.max()) + 1


def _plain(name: str, array: Array, is_label: bool, named: Named, reading: Reading) -> Array:
    """Return whole numbers or floats, (N,) or (N, C); whole numbers, too, for labels that are stored as others."""
    if array.dtype.kind in "US":
        raise DataError(f"{name} are words and must be numbers: {_encoding(named)}")
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise DataError(f"{name} must be integers (N,) or floats (N,) or (N, C), got {_kind_of(name, array)}")
    shape, kind = array.shape, array.dtype
    if array.ndim == 2 and array.shape[1] == 1 and (is_label or kind.kind != "f"):
        array = array[:, 0]
    if is_label and kind.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name} has targets that are nan or infinite: leave these examples out")
    odd = array[array != np.round(array)] if is_label and kind.kind == "f" else array[:0]
    if len(odd):
        fix = f"to regress values, call them {name.replace('label', 'target')}"
        raise DataError(f"{name} must be whole numbers, got {kind} such as {odd[0]:g}: {fix}")
    if kind.kind == "b" or (is_label and kind.kind == "f"):
        array = array.astype(np.int64)
    if name == named["train"][0] and (array.shape, array.dtype) != (shape, kind):
        reading.notes.append(f"{name} {kind} {shape}")
    return array


def _is_one_hot(array: Array) -> bool:
    return array.ndim == 2 and array.shape[1] > 1 and bool(np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all())


def _check_classes(name: str, is_label: bool, arrays: Mapping[str, Array], named: Named) -> None:
    values = np.unique(np.concatenate([np.unique(array) for array in arrays.values()]))
    are_few = is_label or len(values) <= MOST_CLASSES or len(arrays["train"]) >= LEAST_EXAMPLES * len(values)
    if values[0] == 0 and values[-1] < 2 * len(values) and are_few:
        return
    shown = ", ".join(map(str, [*values[:4], *["..."] * (len(values) > 5), *values[4:][-1:]]))
    floats = "" if is_label else f"; to regress values: {name} = {name}.astype(np.float32), the others likewise"
    raise DataError(f"{name} must be classes, 0 to their number - 1, got {shown}: {_encoding(named)}{floats}")


def _encoding(named: Named) -> str:
    names = ", ".join(name for name, _ in named.values())
    ends = np.cumsum([len(array) for _, array in named.values()])[:-1].tolist()
    return f"labels = np.unique(np.concatenate([{names}]), return_inverse=True)[1]; {names} = np.split(labels, {ends})"


def _kind_of(name: str, array: Array) -> str:
    line = REMEDIES.get(array.dtype.kind.replace("S", "U"))
    if line is None and array.ndim != 4:
        line = "{0} = {0}[:, None] for one number each" if array.ndim == 1 else "{0} = {0}.reshape(len({0}), -1)"
    return f"{array.dtype} {array.shape}" + (f": {line.format(name)}" if line else "")
