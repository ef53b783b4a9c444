"""Small files written whole or not at all: a kill, a crash or a full disk leaves the old one as it was."""

import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

NUMBERS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}  # what JSON has no number for


class WriteError(OSError):
    """A file that could not be written. Its text is one sentence: the file, why, and the bytes free there."""


def write_atomic(path: Path, content: bytes | memoryview | str) -> None:
    """Replace the file at `path` by one that holds `content`, on the disk when this returns.

    A temporary file `.<name>.<pid>.tmp` beside it is written, flushed to the disk and renamed; then the
    directory is flushed too, for the rename is an entry of it.

    Args:
        path: the file; its directory is made if absent.
        content: its bytes, or text to be encoded as UTF-8.

    Raises:
        WriteError: if the system refuses (disk full, no permission). The old file then stands, and the
            temporary one is gone.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    except OSError as error:
        fault = f"{len(data):,} bytes, {error.strerror or error}"
        raise WriteError(f"cannot write {path} ({fault}): {free_space(path.parent)}") from error


def replace(path: Path, data: bytes | memoryview, name: str | None = None) -> None:
    """Write the temporary file, `.<name>.<pid>.tmp`, and put it in the place of the one at `path`, or remove it."""
    temporary = path.with_name(f".{name or path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_directory(path.parent)
    finally:
        with suppress(OSError):  # once it is renamed there is none
            temporary.unlink()


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_space(directory: Path) -> str:
    """Return in words how many bytes are free on the disk of a directory."""
    try:
        return f"{shutil.disk_usage(directory).free:,} bytes free in {directory}"
    except OSError as error:
        return f"free bytes unknown in {directory} ({error.strerror})"


def remove_stale_temporaries(directory: Path) -> list[Path]:
    """Remove what killed processes left of `write_atomic` in a directory, and return the paths.

    Call it with the directory's lock held: a temporary of a living process looks the same.
    """
    stale = sorted(directory.glob(".*.tmp"))
    stale = [path for path in stale if path.name.split(".")[-2].isdecimal()]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON that any reader accepts, whole or not at all.

    JSON has no infinite numbers and no NaN: they become the strings "Infinity", "-Infinity" and "NaN"
    (which `float` in Python and `Number` in JavaScript take), and `read_json` turns these back into numbers.
    Tuples become lists, keys and `Path`s strings.

    Raises:
        ValueError: for a string that is one of these three, since it would come back as a number.
        TypeError: for what JSON cannot hold (a tensor, an array).
        WriteError: as `write_atomic` does.
    """
    write_atomic(path, json.dumps(_encode_nonfinite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what `write_json` wrote.

    Raises:
        ValueError: if the file is not JSON; the text names it.
        OSError: if it cannot be read.
    """
    try:
        return _decode_nonfinite(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it, or restore a good copy") from error


def _encode_nonfinite(value: Any) -> Any:
    if isinstance(value, str) and value in NUMBERS:
        raise ValueError(f"the string {value!r} cannot be kept in JSON here, where it stands for the number: reword it")
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in NUMBERS.items() if str(number) == str(float(value)))
    if isinstance(value, dict):
        return {key: _encode_nonfinite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_encode_nonfinite(member) for member in value]
    return str(value) if isinstance(value, Path) else value


def _decode_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode_nonfinite(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_decode_nonfinite(member) for member in value]
    return NUMBERS.get(value, value) if isinstance(value, str) else value
