"""Which runs belong to a sweep: a list in its folder. The sweep's table and exit code are of these runs alone.

The file `.sweeps/<id>` has the name of a run's directory in each line. The id is a hash of the command, so the same
command finds its list again, and several sweeps can share a folder. The processes of a sweep know the file by an
environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from runner.storage.directory import Run
from runner.storage.identity import digest

VARIABLE = "PENALTY_LAB_SWEEP"


def use_list_of(arguments: Sequence[str], folder: Path) -> None:
    """Choose the list of a command for this process and those that it starts; nothing is written yet."""
    command = digest({"arguments": [word for word in arguments if not word.startswith("force=")]})
    os.environ[VARIABLE] = str((folder / ".sweeps" / command).absolute())


def start_list() -> None:
    """Remove the list, if there is one: the sweep is going to say all its runs anew."""
    if VARIABLE in os.environ:
        Path(os.environ[VARIABLE]).unlink(missing_ok=True)


def add_to_list(runs: Sequence[Run]) -> None:
    """Write down that some runs belong to the sweep, in one go, since other processes may do the same."""
    if VARIABLE in os.environ:
        path = Path(os.environ[VARIABLE])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write("".join(f"{run.path.name}\n" for run in runs))


def listed() -> list[Path]:
    """Return the directories of the sweep's runs, each once; some may not exist yet."""
    path = Path(os.environ[VARIABLE])
    names = path.read_text().splitlines() if path.exists() else []
    return [path.parent.parent / name for name in dict.fromkeys(names)]
