"""What a run has read: plain data for its record, at most three lines for its user, and all that is odd."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from data.dataset import Raw, Split

WIDTH = 120  # of a line
LISTED = 8  # numbers in a sentence


@dataclass(frozen=True)
class Facts:
    """What was read: a record of plain data, lines, and a sentence for each thing that is odd."""

    record: dict[str, Any]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


UNKNOWN = Facts({}, (), ())


def described(
    raw: Raw,
    train: Split,
    validation: Split | None,
    sizes: Mapping[str, int | None],
    normalization: tuple[str, Tensor, Tensor],
) -> Facts:
    """Return the facts of a data set.

    Args:
        raw: what the source has read.
        train, validation: the splits that were made of it, before their normalisation.
        sizes: options that have chosen the training examples, by name.
        normalization: its kind, offset and scale.
    """
    examples = {"train": len(train), "validation": len(validation or ()), "test": len(raw.test)}
    low, high = (value.item() for value in raw.train.inputs.aminmax())
    shape, dtype = list(raw.train.inputs.shape[1:]), str(raw.train.inputs.dtype).removeprefix("torch.")
    inputs = {"shape": shape, "dtype": dtype, "low": low, "high": high}
    targets = _values(train) if raw.classes is None else _classes(train, raw.classes)
    record: dict[str, Any] = {**examples, "inputs": inputs, "targets": targets, "notes": list(raw.notes)}
    record["normalize"] = _normalization(*normalization)
    chosen = "".join(f"{name}={value}: " for name, value in sizes.items() if value)
    splits = f"{examples['train']:,} to train, {examples['validation']:,} to validate, {examples['test']:,} to test"
    lines = (
        f"data: {chosen}{splits}; {_shape_in_words(shape)}, {dtype} from {low:.4g} to {high:.4g}",
        _targets_in_words(targets),
        "; ".join((_normalization_in_words(record["normalize"]), *raw.notes)),
    )
    odd = _oddities(train, {"validation": validation, "test": raw.test}, raw.classes)
    return Facts(record, tuple(shorten(line, WIDTH, placeholder=" ...") for line in lines), (*raw.warnings, *odd))


def _classes(train: Split, classes: int) -> dict[str, Any]:
    counts = train.targets.bincount(minlength=classes)
    return {"classes": classes, "counts": counts.tolist(), "empty": (counts == 0).nonzero().flatten().tolist()}


def _values(train: Split) -> dict[str, Any]:
    low, high = train.targets.aminmax(dim=0)
    return {"values": len(low), "low": low.tolist(), "high": high.tolist()}


def _normalization(kind: str, offset: Tensor, scale: Tensor) -> dict[str, Any]:
    """Return the kind, with mean and deviation where one number each holds for all inputs."""
    return {"kind": kind, **({"offset": offset.item(), "scale": scale.item()} if offset.dim() == 0 else {})}


def _shape_in_words(shape: Sequence[int]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} columns"
    channels = f"{shape[0]} channel{'s' * (shape[0] > 1)}"
    return f"{channels} of {'x'.join(map(str, shape[1:]))}" if len(shape) > 2 else f"{channels} of length {shape[1]}"


def _targets_in_words(targets: Mapping[str, Any]) -> str:
    if "values" in targets:
        ranges = zip(targets["low"], targets["high"], strict=True)
        return f"targets: {targets['values']} values, from {listed(f'{low:.4g} to {high:.4g}' for low, high in ranges)}"
    counts = {label: count for label, count in enumerate(targets["counts"]) if count}
    rarest, most = (choose(counts, key=counts.__getitem__) for choose in (min, max))
    sizes = f"{counts[rarest]} (class {rarest}) to {counts[most]} (class {most}) training examples each"
    empty = f"; none of {listed(targets['empty'])}" if targets["empty"] else ""
    return f"classes: {targets['classes']}, {sizes}{empty}"


def _normalization_in_words(facts: Mapping[str, Any]) -> str:
    if facts["kind"] == "none":
        return f"inputs divided by {facts['scale']:g}" if facts["scale"] != 1 else "inputs not normalised"
    if "offset" in facts:
        return f"inputs normalised by mean {facts['offset']:.4g} and deviation {facts['scale']:.4g}"
    return "inputs normalised by column, each by its own mean and deviation"


def _oddities(train: Split, others: Mapping[str, Split | None], classes: int | None) -> Iterable[str]:
    """Yield a sentence for each thing about the splits that a user should know of."""
    constant = (train.inputs == train.inputs[0]).all(0) if train.inputs.dim() == 2 and len(train) > 1 else None
    if constant is not None and constant.any():
        yield f"the inputs' columns {listed(constant.nonzero().flatten().tolist())} are constant in the training split"
    if classes is None:
        if len(train) > 1 and (same := (train.targets == train.targets[0]).all(0)).any():
            yield f"the targets' columns {listed(same.nonzero().flatten().tolist())} are constant in the training split"
        return
    if len(train) > 1 and len(train.targets.unique()) == 1:
        yield f"all training examples are of class {int(train.targets[0])}: there is nothing to tell apart"
    if classes > max(10, len(train) / 2):
        yield f"there are {classes} classes and {len(train)} training examples: are the labels values of a regression?"
    for name, split in others.items():
        unknown = split.targets[~torch.isin(split.targets, train.targets)] if split else ()
        if len(unknown):
            labels = listed(torch.as_tensor(unknown).unique().tolist())
            yield f"{len(unknown)} {name} examples are of classes without a training example: {labels}"


def listed(values: Iterable[object]) -> str:
    """Return the first of some values, separated by commas."""
    words = [str(value) for value in values]
    return ", ".join(words[:LISTED] + ["..."] * (len(words) > LISTED))
