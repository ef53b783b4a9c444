"""Files of public data sets: found, downloaded on first use, and verified each time they are read."""

import fcntl
import hashlib
import http.client
import logging
import os
import shutil
import ssl
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError

log = logging.getLogger(__name__)

# What a server or the way to it can do to us: worth another try, unlike a full disk or a missing permission.
NETWORK_ERRORS = (URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)


class DataError(ValueError):
    """Data that cannot be used. Its text is one sentence: what, where, and how to put it right."""


@dataclass(frozen=True)
class File:
    """One file of a public data set.

    Args:
        name: its path below the root; the file name alone also at each of the sources.
        digest: the hexadecimal sha256 (64 digits) or md5 (32 digits) of its bytes.
        bases: addresses of the folders that serve it, best first, each with its closing slash.
    """

    name: str
    digest: str
    bases: tuple[str, ...] = ()


def read(files: Sequence[File], root: Path, *, timeout: float = 20, tries: int = 3, pause: float = 1) -> list[bytes]:
    """Return the contents of `files` below `root`, each verified; what is absent is downloaded first.

    Args:
        files: what to read.
        root: folder of the data.
        timeout: longest silence of a server (seconds, > 0).
        tries: rounds over all sources before giving up (>= 1).
        pause: rest before the second round, doubled for each further one (seconds, >= 0).

    Raises:
        DataError: a file cannot be had, read or trusted; the sentence names it.
    """
    for file in files:
        if not (root / file.name).exists():
            absent = [other for other in files if not (root / other.name).exists()]
            _fetch(file, root, _advice(absent, root), timeout, tries, pause)
    return [verified(root / file.name, file.digest) for file in files]


def verified(path: Path, digest: str) -> bytes:
    """Return the bytes of the file at `path`.

    Raises:
        DataError: it cannot be read, or its sha256 or md5 is not `digest`.
    """
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if fault := _fault(contents, digest):
        raise DataError(f"{path} {fault}: delete it and run again to download it anew, or put a good copy there")
    return contents


def _fault(contents: bytes, digest: str) -> str | None:
    """Return what is wrong with a file's contents, in words; None if they are what `digest` says."""
    kind = "sha256" if len(digest) == 64 else "md5"
    if (found := hashlib.new(kind, contents).hexdigest()) == digest:
        return None
    if not contents:
        return "is empty"
    if contents[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, not data"
    return f"is truncated or damaged ({len(contents):,} bytes, {kind} {found[:8]}... instead of {digest[:8]}...)"


def _advice(files: Sequence[File], root: Path) -> str:
    base, folder = files[0].bases[0], (root / files[0].name).parent
    names = ", ".join(Path(file.name).name for file in files)
    return f"put {names} from {base} into {folder}, or set data.root to a folder that has the data"


def _fetch(file: File, root: Path, advice: str, timeout: float, tries: int, pause: float) -> None:
    path = root / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not path.exists():  # otherwise another process has brought it while we waited
                _download(file, path, advice, timeout, tries, pause)
    except OSError as error:
        remedy = "make room, or set data.root to a folder that can be written"
        raise DataError(f"cannot write {path} ({error.strerror or error}): {remedy}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(file: File, path: Path, advice: str, timeout: float, tries: int, pause: float) -> None:
    part = path.with_name(f".{path.name}.part")  # one name, for the lock is ours: a stale one is overwritten
    faults: list[str] = []
    try:
        for attempt in range(tries):
            time.sleep(pause * 2 ** (attempt - 1) if attempt else 0)
            for base in file.bases:
                fault = _transfer(base + path.name, part, file.digest, timeout)
                if fault is None:
                    os.replace(part, path)
                    return
                faults.append(f"{base}{path.name} {fault}")
                log.info("%s", faults[-1])
    finally:
        part.unlink(missing_ok=True)
    raise DataError(f"cannot download {path.name} in {tries} tries ({faults[-1]}): {advice}")


def _transfer(url: str, part: Path, digest: str, timeout: float) -> str | None:
    """Bring `url` to the file `part`, flushed to the disk; return what went wrong, in words, or None."""
    log.info("downloading %s", url)
    request = urllib.request.Request(url, headers={"User-Agent": "penalty-lab"})
    try:
        with part.open("wb") as sink:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                shutil.copyfileobj(response, sink, 1 << 20)
            sink.flush()
            os.fsync(sink.fileno())
    except HTTPError as error:
        error.close()
        return f"was answered {error.code} {error.reason}"
    except NETWORK_ERRORS as error:
        return f"failed: {getattr(error, 'reason', None) or error or type(error).__name__}"
    return _fault(part.read_bytes(), digest)
