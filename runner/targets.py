"""Which classes a config may name: exactly those that the files under `conf/` name, group by group.

A prefix would be no boundary (`torch.nn.parallel.distributed.os.system` resolves), so the list is of whole names.
A user's own package is admitted by `allow_targets=[package]` on the command line, and then only for what is
defined in that package (`resolve`).
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from runner.rules import walk

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("data", "model", "init", "loss", "optimizer", "scheduler", "penalty", "probe")
HYDRA_TARGETS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    "hydra_plugins.local_launcher.LocalLauncher",
    "hydra_plugins.local_launcher.GridSweeper",
    "optuna.samplers.TPESampler",
    "optuna.samplers.RandomSampler",
}
STAYS_EMPTY = (  # what Hydra acts on beside `_target_`
    ("job_logging", "root", "the runner writes the log, and Python's logging builds any class that it is told to"),
    ("hydra_logging", "root", "the runner writes the log, and Python's logging builds any class that it is told to"),
    ("job", "env_set", "set variables in the shell, since programs are found by them"),
)
MAY_BE_SET = {"OMP_NUM_THREADS"}  # a job's threads, under launchers that do not say so themselves

EXTRAS = {  # package of a launcher or sweeper -> the extra that brings it
    "hydra_joblib_launcher": "joblib",
    "hydra_submitit_launcher": "slurm",
    "hydra_ray_launcher": "ray",
    "hydra_optuna_sweeper": "optuna",
}


@cache
def known_targets(group: str) -> frozenset[str]:
    """Return the targets that the files of a config group name."""
    named = (re.findall(r"^\s*_target_:\s*([\w.]+)", path.read_text(), re.M) for path in (CONF / group).rglob("*.yaml"))
    return frozenset(target for targets in named for target in targets)


def problems_of_targets(config: dict[str, Any], packages: list[str]) -> list[str]:
    """Return a sentence for each `_target_` that is not on the list, wherever in the config it stands."""
    problems = []
    for path, value in walk(config):
        key = path.rpartition(".")[2]
        if key in ("_args_", "_partial_", "_convert_", "_recursive_"):
            problems.append(f"{path} is not allowed: give the arguments by name")
        if key == "_target_" and not allowed(path.partition(".")[0], value, packages):
            near = get_close_matches(str(value), known_targets(path.partition(".")[0]), 1)
            did_you_mean = f"did you mean {near[0]}? " if near else ""
            problems.append(
                f"{path} must be one of the classes that conf/ names, got {value!r}: {did_you_mean}"
                "For a class of your own, add allow_targets=[its_package] to the command line"
            )
    return problems


def allowed(group: str, target: Any, packages: list[str]) -> bool:
    """Tell whether a config group may name this target."""
    if not isinstance(target, str):
        return False
    return target in known_targets(group) or target.partition(".")[0] in packages


def resolve(target: str) -> Any:
    """Import and return the class or function of a target that `problems_of_targets` found allowed.

    Raises:
        ValueError: if there is none, or if it is defined elsewhere than in the package that its name begins with
            (a module imported by an allowed one is not allowed for that).
    """
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    package = target.partition(".")[0]
    if not callable(found) or getattr(found, "__module__", "").partition(".")[0] != package:
        raise ValueError(f"_target_ {target!r} must be a class or function defined in {package}")
    return found


def problems_of_hydra(hydra: dict[str, Any]) -> list[str]:
    """Return a sentence for each class that Hydra itself would build and that is no launcher or sweeper named here."""
    custom = (hydra.get("sweeper") or {}).get("custom_search_space")
    problems = [] if custom is None else [f"hydra.sweeper.custom_search_space must be null, got {custom!r}"]
    problems += [
        f"hydra.{node}.{key} must stay empty, got {hydra[node][key]!r}: {reason}"
        for node, key, reason in STAYS_EMPTY
        if set((hydra.get(node) or {}).get(key) or ()) - MAY_BE_SET
    ]
    return problems + [
        f"hydra.{path} must be a launcher, sweeper or sampler that this project names, got {value!r}"
        for path, value in walk(hydra)
        if path.endswith("_target_") and value not in HYDRA_TARGETS
    ]


def problems_of_packages(hydra: dict[str, Any]) -> list[str]:
    """Return a sentence for each launcher or sweeper whose package is not installed."""
    problems = []
    for kind in ("launcher", "sweeper"):
        package = str((hydra.get(kind) or {}).get("_target_", "")).split(".")[1:2]
        extra = EXTRAS.get("".join(package))
        if extra and importlib.util.find_spec(f"hydra_plugins.{package[0]}") is None:
            problems.append(f"hydra.{kind} needs {package[0]}, which is not installed: uv sync --extra {extra}")
    return problems
