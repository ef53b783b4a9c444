"""A run's identity and its directory, which holds everything about it.

The id is a hash of the resolved config less what cannot change the result; the directory's name is the keys that
differ from the defaults, then the id. So the same config lands in the same directory, whatever the grid, its order or
the launcher, and a run finds what it has already done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from runner.config.allowlist import CONF, GROUPS
from runner.config.check import exit_with_problems, problems_of_config
from runner.config.compose import allowed_packages, resolved
from runner.config.rules import as_yaml, walk
from runner.storage.atomic import read_json, write_atomic, write_json

NOT_IDENTITY = (
    "device",
    "threads",
    "runs_dir",
    "name",
    "force",
    "allow_targets",
    "histograms",
    "pictures",
    "checkpoint_seconds",
    "objective_metric",
    "data.root",
    "sweep.n_jobs",
    "sweep.on_error",
    "sweep.retry_failed",
)
LONGEST_NAME = 100
FINISHED = ("done", "diverged")  # results to keep; all other statuses are work to be done


class Busy(RuntimeError):
    """Another process works in the run's directory."""


class Run:
    """Where one run lives.

    Args:
        config: resolved, plain.
        choices: config group -> chosen option, as Hydra names it.
        overrides: the command line's, for the record.
    """

    def __init__(self, config: dict[str, Any], choices: Mapping[str, Any], overrides: list[str] | None = None) -> None:
        self.config, self.overrides = config, overrides or []
        leaves = identity(config) | contents(config)
        self.run_id = digest(leaves)
        self.group_id = digest({key: value for key, value in leaves.items() if key != "seed"})
        self.group_name = named(label({**config, "seed": 0}, choices), self.group_id)
        folder = Path(config["runs_dir"], config["name"])
        self.path = folder / named(label(config, choices), self.run_id)
        if not self.path.exists():  # a config can be typed in several ways, which differ in the label
            self.path = next(iter(sorted(folder.glob(f"*_{self.run_id}"))), self.path)

    @classmethod
    def of(cls, config: DictConfig) -> Run:
        """Return the directory of a composed config, once that is found good; leave with exit code 2 otherwise."""
        plain, hydra = resolved(config), HydraConfig.get()
        overrides = list(hydra.overrides.task)
        problems = problems_of_config(plain, allowed_packages(overrides))
        if problems:
            exit_with_problems(problems)
        choices: Any = OmegaConf.to_container(hydra.runtime.choices)
        return cls(plain, choices, overrides)

    @property
    def hparams(self) -> dict[str, Any]:
        """The identity of the run less the seed, flat, in values that TensorBoard's table of hyperparameters can hold.

        The names of the penalties stand first: TensorBoard shows few columns, and those that differ.
        """
        left_out = ("seed", "penalty", "probe")
        leaves = {path: value for path, value in identity(self.config).items() if path not in left_out}
        plain = {
            path: value if isinstance(value, int | float | str) else as_yaml(value) for path, value in leaves.items()
        }
        return {"penalty": "+".join(self.config["penalty"]) or "none", **plain}

    @property
    def is_finished(self) -> bool:
        return not self.config["force"] and self.result().get("status") in FINISHED

    @property
    def has_ended(self) -> bool:
        """Tell whether the run came to an end, good or bad; an interrupted one has not."""
        return self.result().get("status") in (*FINISHED, "failed")

    @property
    def needs_no_training(self) -> bool:
        """Tell whether there is nothing to train: the run is finished, or failed and is not to be tried again."""
        retried = self.config["sweep"]["retry_failed"] or self.config["force"]
        return self.is_finished or (self.result().get("status") == "failed" and not retried)

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    def result(self) -> dict[str, Any]:
        """Return what is known of the run: the last result.json; an empty dict if there is none, or a damaged one."""
        try:
            found = read_json(self.result_path)
        except (OSError, ValueError):  # the checkpoints have it all: a result is soon made anew
            return {}
        return found if isinstance(found, dict) and found.get("run_id") == self.run_id else {}

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write what is known of the run, under its ids, and return it."""
        whole = {"run_id": self.run_id, "group_id": self.group_id, **result}
        write_json(self.result_path, whole)
        return whole

    def mark_seen(self) -> None:
        """Make the result newer than the mark of the sweep that has looked at it (`runner.sweep.conclude`)."""
        if self.result_path.exists():
            self.result_path.touch()

    def write_config(self) -> None:
        """Record the resolved config and the overrides."""
        write_atomic(self.path / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
        write_atomic(self.path / "overrides.yaml", yaml.safe_dump(self.overrides))

    def locked(self) -> AbstractContextManager[None]:
        """Hold the directory; the lock dies with its process.

        Raises:
            Busy: if another process holds it.
        """
        return locked(self.path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run's directory."""
    path.mkdir(parents=True, exist_ok=True)
    with open(path / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another process is training in {path}: wait for it, or stop it first") from error
        yield


def named(label: str, digest: str) -> str:
    """Return a readable label and a hash as one name, of a length that every file system takes."""
    return f"{label[: LONGEST_NAME - 1 - len(digest)]}_{digest}".lstrip("_")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a config that can change its result, by path; equal numbers become the same one."""
    leaves = {path: value for path, value in walk(config) if not isinstance(value, dict) or not value}
    return {
        path: int(value) if isinstance(value, float) and value.is_integer() else value
        for path, value in leaves.items()
        if path not in NOT_IDENTITY
    }


def contents(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the sha256 of the user's own data file, under its path: other contents make another run."""
    if config["data"]["_target_"] != "data.Npz":
        return {}
    try:
        path = Path(config["data"]["path"]).expanduser().resolve()
        facts = path.stat()
        return {"data.path": hash_of(path, facts.st_mtime_ns, facts.st_size)}
    except (OSError, TypeError, ValueError, RuntimeError, KeyError):  # no such file: to build the data will tell why
        return {}


@cache
def hash_of(path: Path, modified: int, size: int) -> str:
    """Return the sha256 of a file, read once as long as it looks the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tree: Mapping[str, Any]) -> str:
    """Return a short hash of plain data, whatever its order."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


def label(config: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """Return the choices and values that differ from the defaults, readable and safe as a file name."""
    main = loaded(CONF / "config.yaml")
    default = {group: name for entry in main["defaults"] if isinstance(entry, dict) for group, name in entry.items()}
    parts = [
        f"{group}={choices[group]}"
        for group in GROUPS
        if group not in ("penalty", "probe") and choices.get(group, default[group]) != default[group]
    ]
    parts += [f"penalty={'+'.join(sorted(config['penalty']))}"] if config["penalty"] else []
    usual = identity(defaults_of(main, config, choices))
    changed = {path: value for path, value in identity(config).items() if usual.get(path, ...) != value}
    parts += [
        f"{short(path)}={value if isinstance(value, str) else as_yaml(value)}"
        for path, value in changed.items()
        if not path.endswith("_target_")
        and not re.search(r"\.\d+$", path)
        and not path.startswith("probe")
        and path != "penalty"
    ]
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(parts))


def defaults_of(main: dict[str, Any], config: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the files under conf/ alone give for these choices."""
    usual = {key: value for key, value in main.items() if key not in ("defaults", "hydra")}
    for group in GROUPS:
        names = config[group] if group in ("penalty", "probe") else [choices.get(group)]
        for name in names:
            path = CONF / group / f"{name}.yaml"
            own = loaded(path)
            usual[group] = {**usual.get(group, {}), **own}
    return usual


@cache
def loaded(path: Path) -> dict[str, Any]:
    """Return what a file under conf/ holds, empty if there is none; not to be changed."""
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def short(path: str) -> str:
    """Return a path without its group, unless that would make it ambiguous."""
    rest = path.partition(".")[2]
    return rest if rest and rest not in ("seed", "weight") else path
