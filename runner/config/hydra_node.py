"""What may stand in Hydra's own node, `hydra`: Hydra builds what it finds there, before any code of ours has a say.

A launcher, a sweeper and a sampler of those named here, with their options; all else as the files under conf/ leave it.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from typing import Any

from runner.config.allowlist import CONF
from runner.config.rules import as_yaml, walk

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
NO_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}
LOGGING = "the runner writes the log, and Python's logging builds any class that it is told to"
FIXED = {  # path -> what it stays, and why
    "callbacks": ({}, "Hydra builds any class that it is told to"),
    "job_logging": (NO_LOGGING, LOGGING),
    "hydra_logging": (NO_LOGGING, LOGGING),
    "run": ({"dir": "."}, "the runner makes the directories"),
    "sweep": ({"dir": "${runs_dir}/${name}", "subdir": "."}, "runs_dir and name say where a sweep lies"),
    "output_subdir": (None, "the runner records the config"),
    "job.chdir": (False, "paths are those of the shell"),
    "job.env_copy": ([], "set variables in the shell"),
    "verbose": (False, "the runner writes the log"),
}
MAY_BE_SET = {"OMP_NUM_THREADS"}  # of job.env_set: a job's threads, under launchers that do not say so themselves
NOT_SWEPT = ("hydra", "allow_targets", "name", "runs_dir")  # by a file: the command line alone says these
RECORDS = ("overrides.", "runtime.", "job.override_dirname")  # what was typed, which is checked where it belongs
TEXTS = ("help.", "hydra_help.")  # printed and never built
DATABASES = ("sqlite:", "mysql", "postgresql")  # optuna's other storages unpickle what they find

EXTRAS = {  # package of a launcher or sweeper -> the extra that brings it
    "hydra_joblib_launcher": "joblib",
    "hydra_submitit_launcher": "slurm",
    "hydra_ray_launcher": "ray",
    "hydra_optuna_sweeper": "optuna",
}


def problems_of_hydra(hydra: dict[str, Any]) -> list[str]:
    """Return a sentence for everything in Hydra's node, plain but not resolved, that may not stand there."""
    problems = [
        f"hydra.{path} must stay {as_yaml(usual)}, got {as_yaml(found)}: {reason}"
        for path, (usual, reason) in FIXED.items()
        if (found := value_at(hydra, path)) != usual
    ]
    variables = value_at(hydra, "job.env_set")
    if not isinstance(variables, dict) or set(variables) - MAY_BE_SET:
        problems.append(f"hydra.job.env_set must stay empty, got {as_yaml(variables)}: set variables in the shell")
    for path, value in walk(hydra):
        if path.endswith("_target_") and value not in HYDRA_TARGETS:
            wanted = "a launcher, sweeper or sampler that this project names"
            problems.append(f"hydra.{path} must be {wanted}, got {value!r}")
        if isinstance(value, str) and refers(path, value):
            problems.append(f"hydra.{path} must be a plain value, got {value!r}: what it refers to could be a class")
    for kind in ("launcher", "sweeper"):
        node = hydra.get(kind)
        if not isinstance(node, dict):
            problems.append(f"hydra.{kind} must be chosen by hydra/{kind}=..., got {as_yaml(node)}")
        elif kind == "sweeper":
            problems += problems_of_sweeper(node)
    return problems


def problems_of_sweeper(sweeper: dict[str, Any]) -> list[str]:
    """Return a sentence for each option of a sweeper that would lead past the check of the command line."""
    problems = []
    if (custom := sweeper.get("custom_search_space")) is not None:
        problems.append(f"hydra.sweeper.custom_search_space must be null, got {custom!r}: it would call any function")
    storage = sweeper.get("storage")
    if storage is not None and not str(storage).startswith(DATABASES):
        problems.append(f"hydra.sweeper.storage must begin with {', '.join(DATABASES)}, or be null, got {storage!r}")
    for node in ("params", "search_space"):
        swept = sweeper.get(node)
        if swept is not None and not isinstance(swept, dict):
            problems.append(f"hydra.sweeper.{node} must map keys to their values, or be null, got {as_yaml(swept)}")
            continue
        problems += [
            f"hydra.sweeper.{node} must not hold {key}: it is honoured from the command line alone"
            for key in swept or ()
            if re.split(r"[./@:=]", str(key).strip().lstrip("+~"))[0] in NOT_SWEPT
        ]
    return problems


def value_at(node: Any, path: str) -> Any:
    """Return what stands at a path, None if nothing does."""
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def refers(path: str, value: str) -> bool:
    """Tell whether a value may become something else when Hydra resolves it, in another way than the project's own."""
    if path.startswith(RECORDS):
        return False
    resolvers = re.search(r"\$\{[^}]*[:$]", value)
    return bool(resolvers) or ("${" in value and value not in references() and not path.startswith(TEXTS))


@cache
def references() -> frozenset[str]:
    """Return the values with `${...}` that stand in the project's own files for Hydra."""
    files = [CONF / "config.yaml", *(CONF / "hydra").rglob("*.yaml")]
    found = (re.findall(r"[\w.%/{}$]*\$\{[\w.]+\}[\w.%/{}$]*", file.read_text()) for file in files)
    return frozenset(value for values in found for value in values)


def problems_of_packages(hydra: dict[str, Any]) -> list[str]:
    """Return a sentence for each launcher or sweeper whose package is not installed."""
    problems = []
    for kind in ("launcher", "sweeper"):
        package = str(value_at(hydra, f"{kind}._target_") or "").split(".")[1:2]
        extra = EXTRAS.get("".join(package))
        if extra and importlib.util.find_spec(f"hydra_plugins.{package[0]}") is None:
            problems.append(f"hydra.{kind} needs {package[0]}, which is not installed: uv sync --extra {extra}")
    return problems
