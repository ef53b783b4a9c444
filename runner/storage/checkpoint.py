"""Checkpoints that are whole and verified, or not used.

A file is what `torch.save` makes and a line with the sha256 of it, since `torch.load` notices no flipped bit
(and passes over the line, so that it reads the file, too).
"""

import hashlib
import io
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.storage.atomic import write_atomic

log = logging.getLogger(__name__)

KEPT = {"checkpoint": 2, "best": 3}  # a best state for each checkpoint, and one that is written before its checkpoint
MARK = b"\nsha256 "
TRAILER = len(MARK) + 64 + 1  # the digest in hexadecimal, and a new line
LEAVES = (type(None), bool, int, float, complex, str, bytes, Tensor, torch.nn.Parameter, torch.dtype, torch.device)


class CheckpointError(ValueError):
    """A state that cannot be saved, or a file that must not be used. Its text is one sentence."""


class _DamagedError(CheckpointError):
    """A file that is not what was written: cut, or with a changed byte, or unreadable."""


def save(directory: Path, state: Mapping[str, Any], *, step: int, kind: str = "checkpoint") -> Path:
    """Write a checkpoint, whole or not at all, and keep with it the newest earlier one that is sound.

    Later steps than this one, which a run leaves behind when it goes on from before them, are removed.

    Args:
        directory: where the checkpoints of one run lie; made if absent.
        state: tensors, numbers, strings, bytes, None, and lists, tuples and mappings of them. `Path`s become
            strings, numpy's scalars Python's, `torch.__version__` and other subclasses what they derive from.
        step: optimizer steps done (>= 0); the name carries it.
        kind: `checkpoint`, or `best` for the weights of the best epoch, whose number is the step then, and of which
            two earlier files are kept.

    Returns:
        the file.

    Raises:
        CheckpointError: for a state that `torch.load(weights_only=True)` would refuse.
        WriteError: if the disk is full or the like; all earlier checkpoints then stand.
    """
    if step < 0:
        raise CheckpointError(f"step must be 0 or more, got {step}")
    buffer = io.BytesIO()  # in memory first: torch.save into a full disk destroys the file and says not why
    torch.save(as_plain_data(state), buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(MARK + digest.encode() + b"\n")
    path = directory / f"{kind}-{step:010d}.pt"
    write_atomic(path, buffer.getbuffer())
    remove_all_but(path)
    return path


def load(directory: Path, kind: str = "checkpoint") -> dict[str, Any] | None:
    """Return the state of the newest checkpoint that is sound, on the CPU; None if there is none.

    Each newer one that is damaged is skipped with a warning in the log that names the file and the reason.

    Raises:
        CheckpointError: if the sound file holds more than plain data (then nothing of it is executed), or if
            torch cannot read it. That is no damage, so no earlier one takes its place.
    """
    for path in checkpoints(directory, kind):
        try:
            return _unpacked(path, _checked_bytes(path))
        except _DamagedError as error:
            log.warning("%s: the one before it is tried", error)
    return None


def checkpoints(directory: Path, kind: str = "checkpoint") -> list[Path]:
    """Return the checkpoints in a directory, the newest first, unread."""
    found = [path for path in directory.glob(f"{kind}-*.pt") if path.stem.partition("-")[2].isdecimal()]
    return sorted(found, key=_step_of, reverse=True)


def sound_steps(directory: Path) -> list[int]:
    """Return the steps of the sound checkpoints in a directory, the newest first."""
    return [_step_of(path) for path in checkpoints(directory) if sound(path)]


def _step_of(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def remove_later(directory: Path, step: int, kind: str) -> None:
    """Remove the files of a kind that are of later steps: they are of a future that a resumed run has yet to reach."""
    for path in checkpoints(directory, kind):
        if _step_of(path) > step:
            path.unlink()


def remove_all_but(path: Path) -> None:
    """Remove the checkpoints beside `path`, except for the newest earlier ones that are sound."""
    kept, kind = 1, path.name.partition("-")[0]
    for other in checkpoints(path.parent, kind):
        if other == path:
            continue
        if kept < KEPT[kind] and _step_of(other) < _step_of(path) and sound(other):
            kept += 1
        else:
            other.unlink(missing_ok=True)


def sound(path: Path) -> bool:
    """Tell whether a checkpoint holds the bytes that were written."""
    try:
        _checked_bytes(path)
    except _DamagedError:
        return False
    return True


def _checked_bytes(path: Path) -> memoryview:
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise _DamagedError(f"{path} cannot be read ({error.strerror})") from error
    payload, trailer = content[:-TRAILER], content[-TRAILER:]
    digest = hashlib.sha256(payload).hexdigest()
    if trailer != MARK + digest.encode() + b"\n":
        raise _DamagedError(f"{path} is truncated or damaged ({len(content):,} bytes, its sha256 does not agree)")
    return payload


def _unpacked(path: Path, payload: memoryview) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # anything: the bytes may be made so that they raise what they please
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))  # the rest of torch's text advises to trust the file
        holds = f"holds {forbidden[1]}, which is no plain data" if forbidden else "is no state that torch can read"
        raise CheckpointError(f"{path} {holds}, so it is refused: delete it if you do not know its origin") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} must hold a dict, got {type(state).__name__}: delete it")
    return state


def as_plain_data(value: Any, path: str = "state") -> Any:
    """Return a tree in the types that `torch.load(weights_only=True)` admits; the tensors are not copied."""
    if type(value) in LEAVES:
        return value
    if isinstance(value, np.generic):
        return as_plain_data(value.item(), path)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        members = {as_plain_data(key, path): as_plain_data(member, f"{path}.{key}") for key, member in value.items()}
        if isinstance(value, OrderedDict):  # of a module: its versions of layers hang on it as an attribute
            members = OrderedDict(members)
            vars(members).update(as_plain_data(vars(value), path))
        return members
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        kind = tuple if isinstance(value, tuple) else list
        return kind(as_plain_data(member, f"{path}[{index}]") for index, member in enumerate(value))
    for base in (int, float, str, bytes):
        if isinstance(value, base):
            return base(value)  # type: ignore[arg-type]  # of the type just found
    expected = "a tensor, a number, a string, None, or a list or dict of these"
    raise CheckpointError(f"{path} must be {expected}, got {type(value).__name__}")
