"""What a run has read: plain data for its record, at most three lines for its user, and all that is odd."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import torch
from torch import Tensor

from data.raw import Raw, Split

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
    chosen: Mapping[str, int | None],
    normalization: tuple[str, Tensor, Tensor],
) -> Facts:
    """Return the facts of a data set.

    Args:
        raw: what the source has read.
        train, validation: the splits that were made of it, before their normalisation.
        chosen: the options that have chosen the training examples, by name.
        normalization: its kind, offset and scale.
    """
    low, high = (value.item() for value in raw.train.inputs.aminmax())
    dtype = str(raw.train.inputs.dtype).removeprefix("torch.")
    kind, offset, scale = normalization
    record: dict[str, Any] = {
        "examples": {"train": len(train), "validation": len(validation or ()), "test": len(raw.test)},
        "inputs": {"shape": list(train.inputs.shape[1:]), "dtype": dtype, "low": low, "high": high},
        "targets": _targets(train, raw.classes),
        "normalize": {"kind": kind} | ({} if offset.dim() else {"offset": offset.item(), "scale": scale.item()}),
        "notes": list(raw.notes),
    }
    examples = "{train:,} to train, {validation:,} to validate, {test:,} to test".format(**record["examples"])
    clauses = [
        "".join(f"{name}={value}: " for name, value in chosen.items() if value) + examples,
        f"{_shape(record['inputs']['shape'])}, {dtype} from {low:.4g} to {high:.4g}",
        _targets_in_words(record["targets"]),
        _normalization_in_words(**record["normalize"]),
        *(["targets normalised by column"] if kind == "auto" and raw.classes is None else []),
        *raw.notes,
    ]
    lines = wrap(f"data: {'; '.join(clauses)}", 120, subsequent_indent="      ", max_lines=3, placeholder=" ...")
    odd = _oddities(train, {"validation": validation, "test": raw.test}, raw.classes)
    return Facts(record, tuple(lines), (*raw.warnings, *odd))


def _targets(train: Split, classes: int | None) -> dict[str, Any]:
    if classes is None:
        low, high = train.targets.aminmax(dim=0)
        return {"values": len(low), "low": low.tolist(), "high": high.tolist()}
    counts = train.targets.bincount(minlength=classes)
    return {"classes": classes, "counts": counts.tolist(), "empty": (counts == 0).nonzero().flatten().tolist()}


def _shape(shape: Sequence[int]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} column{'s' * (shape[0] > 1)}"
    return f"{shape[0]} channel{'s' * (shape[0] > 1)} of {'length ' * (len(shape) == 2)}{'x'.join(map(str, shape[1:]))}"


def _targets_in_words(targets: Mapping[str, Any]) -> str:
    if "values" in targets:
        ranges = (f"{low:.4g} to {high:.4g}" for low, high in zip(targets["low"], targets["high"], strict=True))
        return f"targets from {listed(ranges)}"
    counts = {label: count for label, count in enumerate(targets["counts"]) if count}
    rarest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    sizes = f"{counts[rarest]} (class {rarest}) to {counts[most]} (class {most})" if rarest != most else counts[most]
    empty = f", none of {listed(targets['empty'])}" if targets["empty"] else ""
    return f"{targets['classes']} classes of {sizes} training examples{empty}"


def _normalization_in_words(kind: str, offset: float | None = None, scale: float = 1.0) -> str:
    if kind == "none":
        return f"inputs divided by {scale:g}" if scale != 1 else "inputs not normalised"
    if offset is None:
        return "inputs normalised by column"
    return f"inputs normalised by mean {offset:.4g} and deviation {scale:.4g}"


def _oddities(train: Split, others: Mapping[str, Split | None], classes: int | None) -> Iterator[str]:
    for kind, values in (("inputs", train.inputs), ("targets", train.targets)):
        constant = (values == values[0]).all(0) if values.dim() == 2 and len(values) > 1 else torch.zeros(1)
        if constant.any():
            columns = listed(constant.nonzero().flatten().tolist())
            yield f"the {kind} of the training split are constant in column {columns}, counted from 0"
    if classes is None:
        return
    if len(train) > 1 and len(train.targets.unique()) == 1:
        yield f"all training examples are of class {int(train.targets[0])}: there is nothing to tell apart"
    if classes > max(10, len(train) / 2):
        yield f"{len(train)} training examples for {classes} classes: if these are values to regress, make them floats"
    for name, split in others.items():
        unknown = split.targets[~torch.isin(split.targets, train.targets)] if split else torch.zeros(0)
        if len(unknown):
            labels = listed(unknown.unique().tolist())
            yield f"{len(unknown)} {name} examples are of classes without a training example: {labels}"


def listed(values: Iterable[object]) -> str:
    """Return the first of some values, separated by commas."""
    words = [str(value) for value in values]
    return ", ".join(words[:LISTED] + ["..."] * (len(words) > LISTED))
