"""What a source reads: two or three splits, checked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.files import DataError

Range = tuple[float | Tensor, float | Tensor]  # lowest and highest raw input: of all, or of each component


@dataclass(frozen=True)
class Split:
    """One split of the data: inputs (N, *I) and targets, class numbers (N,) int64 or values (N, C) float32."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Tensor | slice) -> "Split":
        return Split(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class Raw:
    """What a source reads, on the CPU: images uint8 (N, C, H, W), other inputs float32 or float64 (N, *I).

    Args:
        train, test: the two splits.
        classes: number of classes (>= 1), or None for a regression.
        validation: the validation split, if the source has one; else `prepare` draws it.
        range: lowest and highest value that an input may have, numbers for images, of other inputs tensors, (D,) or
            (C, 1) (None: 0 and 255 for bytes, else unknown).
        notes, warnings: how the source took what it read, and what is odd about it; a user is told.

    Raises:
        DataError: a split is not what it must be, or the splits do not fit together.
    """

    train: Split
    test: Split
    classes: int | None
    validation: Split | None = None
    range: Range | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test), ("validation", self.validation)):
            if split is None:
                continue
            if fault := _fault_of_inputs(split.inputs) or _fault_of_targets(split, self.classes):
                raise DataError(f"the {name} set {fault}")
            for kind in ("inputs", "targets"):
                shapes = [tuple(getattr(part, kind).shape[1:]) for part in (self.train, split)]
                if shapes[0] != shapes[1]:
                    both = f"{shapes[0]} and {shapes[1]}"
                    raise DataError(f"training and {name} {kind} must have the same shape, got {both}")


def _fault_of_inputs(inputs: Tensor) -> str | None:
    if len(inputs) == 0:
        return "is empty"
    if inputs.is_floating_point() and not inputs.float().isfinite().all():
        return f"has inputs that are nan or infinite (in float32): {_where_not_finite(inputs)}"
    if inputs.dim() == 4 and inputs.shape[1] > 4 and inputs.shape[3] in (1, 3):
        height, width, channels = inputs.shape[1:]
        return (
            f"has images of shape {height}x{width}x{channels}, channels last, and must have them first, "
            f"{channels}x{height}x{width}: use images.permute(0, 3, 1, 2)"
        )
    return None


def _where_not_finite(inputs: Tensor) -> str:
    bad = ~inputs.float().isfinite().flatten(1)
    columns = bad.any(0).nonzero().flatten().tolist()
    where = f" in columns {', '.join(map(str, columns[:5]))}{', ...' * (len(columns) > 5)}" if inputs.dim() == 2 else ""
    line = "keep = np.isfinite(inputs).reshape(len(inputs), -1).all(1); inputs, labels = inputs[keep], labels[keep]"
    return f"{int(bad.any(1).sum())} of {len(bad)} examples{where}; leave them out: {line}"


def _fault_of_targets(split: Split, classes: int | None) -> str | None:
    inputs, targets = split.inputs, split.targets
    if len(inputs) != len(targets):
        return f"has {len(inputs)} inputs and {len(targets)} targets"
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
