"""What an error says of its cause: a lack of memory, a place in a user's own code."""

import inspect
import os
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

OUT_OF_MEMORY = r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc"


def is_lack_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory was not enough, of the machine or of the GPU."""
    first = next(iter(str(error).splitlines()), "")
    return isinstance(error, MemoryError) or bool(re.search(OUT_OF_MEMORY, first, re.IGNORECASE))


def place_of(error: BaseException, packages: Sequence[str]) -> str:
    """Return the innermost place in a user's packages that an error comes from, as " (file, line 7)", or nothing."""
    place = place_of(error.__cause__, packages) if error.__cause__ else ""
    if place:
        return place
    owner = type(getattr(error, "obj", None))  # of an attribute that is missing
    if owner.__module__.partition(".")[0] in packages:
        place = _in_words(inspect.getfile(owner), inspect.getsourcelines(owner)[1])
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
            place = _in_words(frame.f_code.co_filename, line)
    return place


def _in_words(file: str, line: int) -> str:
    return f" ({os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else file}, line {line})"
