"""A run's directory, which holds everything about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from runner.storage.atomic import read_json, write_atomic, write_json
from runner.storage.identity import directory_name, ids
from runner.storage.status import ENDED, FINISHED, Status

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where libyaml is there


class Run:
    """One run: its config, its identity and what is stored of it.

    Args:
        config: resolved, plain, checked.
        overrides: the words of the command that repeats it, for the record.
        title: what tells the run from the others of its sweep (null: the directory's name).
    """

    def __init__(self, config: dict[str, Any], overrides: list[str] | None = None, title: str | None = None) -> None:
        self.config, self.overrides = config, overrides or []
        self.run_id, self.group_id = ids(config)
        folder = Path(config["runs_dir"], config["name"])
        self.path = folder / directory_name(config, self.run_id)
        if config["data"]["_target_"] == "data.Npz" and not self.path.exists():  # begun with a copy of the file?
            self.path = _directory_of(self.run_id, folder) or self.path
        self.title = title or self.path.name

    @property
    def announcement(self) -> str:
        """The first line that a user sees of the run."""
        return f"run {self.run_id} in {self.path}"

    @property
    def is_finished(self) -> bool:
        return not self.config["force"] and self.status in FINISHED

    @property
    def has_ended(self) -> bool:
        """Tell whether the run came to an end, good or bad; an interrupted one has not."""
        return self.status in ENDED

    @property
    def needs_no_training(self) -> bool:
        """Tell whether the run is finished, or failed and is not to be tried again."""
        retried = self.config["sweep"]["retry_failed"] or self.config["force"]
        return self.is_finished or (self.status == Status.FAILED and not retried)

    @property
    def status(self) -> str | None:
        """The stored status, None if there is none."""
        return self.result().get("status")

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    def result(self) -> dict[str, Any]:
        """Return the last result.json; an empty dict if there is none, or a damaged one."""
        try:
            found = read_json(self.path / "result.json")
        except (OSError, ValueError):  # the checkpoints have it all: a result is soon made anew
            return {}
        return found if isinstance(found, dict) and found.get("run_id") == self.run_id else {}

    @property
    def written_at(self) -> int:
        """When result.json was written, in nanoseconds; 0 if there is none."""
        try:
            return (self.path / "result.json").stat().st_mtime_ns
        except OSError:
            return 0

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write what is known of the run, under its ids, and return it."""
        whole = {"run_id": self.run_id, "group_id": self.group_id, **result}
        write_json(self.path / "result.json", whole)
        return whole

    def write_end(self, status: Status, reason: str) -> None:
        """Write how the run ended, beside what is known of it; call it with the lock held."""
        if not (self.path / "config.yaml").exists():
            self.write_config()
        self.write_result({**self.result(), "status": status, "reason": reason})

    def write_config(self) -> None:
        """Record the resolved config and the overrides."""
        write_atomic(self.path / "config.yaml", yaml.dump(self.config, Dumper=_Dumper, sort_keys=False))
        write_atomic(self.path / "overrides.yaml", yaml.dump(self.overrides, Dumper=_Dumper))


def _directory_of(run_id: str, folder: Path) -> Path | None:
    try:
        return _directories_in(folder, folder.stat().st_mtime_ns).get(run_id)
    except OSError:  # no such folder
        return None


@lru_cache(maxsize=4)
def _directories_in(folder: Path, modified: int) -> dict[str, Path]:
    """Return the directories of runs by their ids; a folder is read once as long as nothing in it is made."""
    return {name.rpartition("_")[2]: folder / name for name in sorted(os.listdir(folder))}
