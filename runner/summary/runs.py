"""What can be known of runs from `result.json` and `config.yaml` in their directories, whatever state these are in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.storage.atomic import read_json
from runner.storage.slurm import standing
from runner.summary.settings import is_number

NOT_MEASURED = ("optimizer/", "time/", "examples/", "best/epoch")
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there


@dataclass(frozen=True)
class RunRecord:
    """What is known of one run: its directory, its result (empty if that cannot be read), and how it stands."""

    path: Path
    result: Mapping[str, Any]
    status: str
    reason: str = ""

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def seeds(self) -> tuple[int, int]:
        """The run's seed and that of its data: runs of two groups are paired by them."""
        return self.result.get("seed", 0), self.result.get("data_seed", 0)

    @property
    def numbers(self) -> dict[str, float]:
        """What was measured, by tag."""
        return {
            key: float(value)
            for key, value in self.result.items()
            if is_number(value) and ("/" in key or key == "seconds") and not key.startswith(NOT_MEASURED)
        }


def directories(folders: Sequence[Path]) -> list[Path]:
    """Return the directories of runs at or below some folders: those that hold a result, a config or a job."""
    found = {
        path.parent
        for folder in folders
        for name in ("result.json", "config.yaml", "job.json")
        for path in folder.rglob(name)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)  # a launcher's own
    }
    return sorted(found)


def read_run(path: Path) -> RunRecord:
    """Return what is known of the run in a directory, whatever state that is in."""
    try:
        result = read_json(path / "result.json")
    except FileNotFoundError:
        nothing = "unreadable", "there is no result.json: the run ended before it could write one"
        return RunRecord(path, {}, *(standing(path) or nothing))
    except (OSError, ValueError) as error:
        return RunRecord(path, {}, "unreadable", " ".join(str(error).split()))
    fields = ("status", "group_id", "run_id")
    if not isinstance(result, dict) or not all(isinstance(result.get(field), str) for field in fields):
        return RunRecord(path, {}, "unreadable", f"{path / 'result.json'} has no status, group_id and run_id")
    status = result["status"]
    if status in ("running", "interrupted"):
        return _unfinished(path, result)
    return RunRecord(path, result, status, _reason_of(result))


def _unfinished(path: Path, result: Mapping[str, Any]) -> RunRecord:
    where = f"epoch {result.get('epoch')} of {result.get('epochs')}"
    if job := standing(path):
        status, reason = job
        if status != "lost" or result["status"] == "running":
            return RunRecord(path, result, status, f"{where}, {reason}")
    if result["status"] == "running":
        return RunRecord(path, result, "running", f"{where}, or killed there: the same command again goes on")
    return RunRecord(path, result, result["status"], _reason_of(result))


def _reason_of(result: Mapping[str, Any]) -> str:
    return " ".join(str(result.get("reason", "no reason given")).split())


def config_of(runs: Sequence[RunRecord]) -> dict[str, Any] | None:
    """Return the first config of a group that can be read; they differ in the seed alone."""
    for run in runs:
        try:
            config = yaml.load((run.path / "config.yaml").read_bytes(), Loader)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(config, dict):
            return config
    return None
