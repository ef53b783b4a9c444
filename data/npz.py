"""A user's own arrays."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.dataset import Raw, Split
from data.files import DataError

KEYS = {"inputs": ("images", "inputs"), "targets": ("labels", "targets")}


class Npz:
    """Arrays of a file written by `numpy.savez` or `savez_compressed`.

    It holds, for `train_` and `test_` each, `images` or `inputs` and `labels` or `targets`:

        images  uint8 or floats (N, C, H, W), (N, H, W), or (N, H, W, C) with C = 1 or 3, brought to (N, C, H, W)
        inputs  numbers (N, D), sequences (N, C, L), or images as above
        labels  integers 0 to classes - 1 (N,): classification
        targets floats (N,) or (N, C): regression

    Args:
        path: the file.

    Raises:
        DataError: in `load`, naming the file, where it is missing, damaged (by the checksums it holds) or does not
            hold what is said above.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()

    def load(self) -> Raw:
        """Read the arrays.

        Raises:
            DataError: the file is not what it must be.
        """
        arrays = self._arrays()
        try:
            train, test = (_split(arrays, prefix) for prefix in ("train", "test"))
            if train.targets.dtype != test.targets.dtype:
                raise DataError("training and test targets must both be integers or both be floats")
            return Raw(train, test, _classes(train.targets))
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return dict(archive.items())
        except FileNotFoundError as error:
            raise DataError(f"{self.path} is not there: set data.path to an .npz file of yours") from error
        except (
            OSError,
            ValueError,
            EOFError,
            AttributeError,
            RuntimeError,
            TypeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(f"{self.path} is no sound .npz file of plain arrays ({error}): write it anew") from error


def _split(arrays: dict[str, np.ndarray], prefix: str) -> Split:
    inputs, targets = (_pick(arrays, prefix, KEYS[kind]) for kind in ("inputs", "targets"))
    return Split(_inputs(*inputs), _targets(*targets))


def _pick(arrays: dict[str, np.ndarray], prefix: str, kinds: tuple[str, ...]) -> tuple[str, np.ndarray]:
    """Return the name of the array that there is, and the array."""
    names = [f"{prefix}_{kind}" for kind in kinds]
    for name in names:
        if name in arrays:
            return name, arrays[name]
    raise DataError(f"it must hold {' or '.join(names)}, it has {', '.join(sorted(arrays)) or 'nothing'}")


def _inputs(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3, 4):
        shapes = "(N, H, W) or (N, C, H, W)" if name.endswith("images") else "(N, D), (N, C, L) or (N, C, H, W)"
        raise DataError(f"{name} must be numbers {shapes}, got {_what(array)}")
    if array.ndim == 3 and name.endswith("images"):
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = np.moveaxis(array, 3, 1)
    if array.dtype == np.uint8 and array.ndim == 4:
        return torch.from_numpy(np.ascontiguousarray(array))
    kind = np.float32 if np.can_cast(array.dtype, np.float32) else np.float64  # until it is normalised
    return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))


def _targets(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind in "iu" and array.ndim == 1:
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "f" and array.ndim in (1, 2):
        return torch.from_numpy(array.astype(np.float32).reshape(len(array), -1))
    raise DataError(f"{name} must be integers (N,) or floats (N,) or (N, C), got {_what(array)}")


def _classes(targets: Tensor) -> int | None:
    """Return one more than the largest label; None for values."""
    if targets.is_floating_point():
        return None
    return int(targets.max()) + 1 if len(targets) else 0


def _what(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
