"""Which runs belong to a sweep: a list in its folder. The sweep's table and exit code are of these runs alone.

The file `.sweeps/<id>` has a line of JSON for each run: the name of its directory and, in a sweep with arms, what it is
there for. The id is a hash of the command, so the same command finds its list again, and several sweeps can share a
folder.
"""

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from runner.storage.directory import Run
from runner.storage.identity import SEEDS, digest


class Member(NamedTuple):
    """A run's place in a sweep.

    Attributes:
        path: of the run's directory, which may not exist yet.
        arm: its name; "" in a sweep without arms.
        stage: "trial" of a weight, or "comparison".
        setting: the overrides that all arms share, less the seeds: rows are compared within one setting.
        baseline: what the others are compared with, as `sweep.baseline` says.
        objective: what the sweep minimises, as `objective_metric` says.
    """

    path: Path
    arm: str = ""
    stage: str = "comparison"
    setting: Sequence[str] = ()
    baseline: str | None = None
    objective: str | None = None


class SweepIndex:
    """The list of a sweep's runs; nothing is written before the first.

    Args:
        folder: of the runs.
        arguments: of the command.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        command = digest({"arguments": [word for word in arguments if not word.startswith("force=")]})
        self.path = (folder / ".sweeps" / command).absolute()

    def start(self) -> None:
        """Remove the list, if there is one: the sweep is going to say all its runs anew."""
        self.path.unlink(missing_ok=True)

    def add(self, runs: Sequence[Run]) -> None:
        """Write down that some runs belong to the sweep, in one go, since other processes may do the same."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write("".join(json.dumps({"run": run.path.name, **_purpose_of(run)}) + "\n" for run in runs))

    def members(self) -> list[Member]:
        """Return the members, each run once."""
        return listed(self.path)


def _purpose_of(run: Run) -> dict[str, Any]:
    sweep, objective = run.config["sweep"], run.config["objective_metric"]
    if sweep["arm"] is None:
        return {"baseline": sweep["baseline"], "objective": objective}
    arms = sweep["arms"].values()
    of_arms = {key for arm in arms for key in arm} | {*(sweep["ranges"] or ()), "penalty", "sweep", *SEEDS}
    shared = sorted(line for line in run.overrides if not _is_below(line.partition("=")[0], of_arms))
    return {key: sweep[key] for key in ("arm", "stage", "baseline")} | {"setting": shared, "objective": objective}


def _is_below(key: str, others: Collection[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in others)


def listed(path: Path) -> list[Member]:
    """Return the members of a list; a line that is not whole, as a full disk leaves it, is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):
            purpose = json.loads(line)
            found[purpose.pop("run")] = purpose
    return [Member(path.parent.parent / name, **purpose) for name, purpose in found.items()]


def members_of(folder: Path) -> list[Member]:
    """Return the members of all sweeps in a folder; of a run in several, as the last one that was begun has it."""
    return list({member.path: member for path in _lists_in(folder) for member in listed(path)}.values())


def last_members(folder: Path) -> list[Member]:
    """Return the members of the sweep that was begun last in a folder; none if there was no sweep."""
    return [member for path in _lists_in(folder)[-1:] for member in listed(path)]


def _lists_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(".sweeps/*"), key=lambda path: (path.stat().st_mtime_ns, path.name))
