"""What may stand in Hydra's own node, `hydra`: what this project reads of it, the launcher, the sweeper and the mode.

Every other key must have the value that Hydra gives it. The class of launcher and sweeper must be one that `allowlist`
names, and its options plain values.
"""

import importlib.util
import re
from functools import cache
from typing import Any

from runner.config.allowlist import runs_jobs
from runner.config.compose import project_composer
from runner.config.conf_files import file_of, load, texts_matching
from runner.config.rules import problems_of_values
from runner.config.tree import as_yaml, value_at, walk

PLAIN = ("launcher", "sweeper", "mode", "searchpath")  # may be set
RECORDS = ("overrides", "runtime", "job.override_dirname", "job.config_name")  # what was typed
REASONS = {
    "run": "runs_dir and name tell where a run lies",
    "sweep": "runs_dir and name tell where a sweep lies",
    "job.env_set": "set variables in the shell",
}
NOT_SWEPT = ("hydra", "allow_targets", "name", "runs_dir")  # by a file: only the command line may set these
DATABASES = r"sqlite:///(?!:memory:).|postgresql://."  # optuna's other storages unpickle what they find
SEARCH = "runner.sweep.search.Search"
EXTRAS = {  # launcher -> the package that it needs, and the extra that brings this
    "runner.sweep.ray_engine.RayEngine": ("ray", "ray"),
    "runner.sweep.slurm.SlurmEngine": ("submitit", "slurm"),
}


def problems_of_hydra(hydra: dict[str, Any]) -> list[str]:
    """Return a sentence for everything in Hydra's node, plain but not resolved, that may not stand there."""
    usual = _usual_parts()
    problems = [
        f"hydra.{path} must stay {as_yaml(usual.get(path))}, got {as_yaml(found)}: "
        + REASONS.get(path, "nothing of it is read but launcher, sweeper and mode")
        for path, found in _parts_of(hydra).items()
        if path not in (*PLAIN, *RECORDS) and found != usual.get(path)
    ]
    for path in PLAIN:
        problems += _problems_of_options(f"hydra.{path}", value_at(hydra, path))
    for kind in ("launcher", "sweeper"):
        problems += problems_of_choice(kind, hydra.get(kind))
    return problems


def _parts_of(hydra: dict[str, Any]) -> dict[str, Any]:
    job = {f"job.{key}": value for key, value in hydra["job"].items()}
    return {key: value for key, value in hydra.items() if key != "job"} | job


@cache
def _usual_parts() -> dict[str, Any]:
    return _parts_of(project_composer().compose([]).hydra)


def _problems_of_options(path: str, node: Any) -> list[str]:
    problems = []
    for inner, value in [(path, node), *((f"{path}.{below}", value) for below, value in walk(node))]:
        if inner.endswith("_target_") and not (isinstance(value, str) and runs_jobs(value)):
            wanted = "a launcher or sweeper that this project names"
            problems.append(f"{inner} must be {wanted}, got {value!r}")
        if isinstance(value, str) and "${" in value and value not in _references():
            problems.append(f"{inner} must be a plain value, got {value!r}: what it refers to could be a class")
    return problems


def problems_of_choice(kind: str, node: Any) -> list[str]:
    """Return a sentence if the launcher or the sweeper is no choice of its group, or if its package is missing."""
    if not isinstance(node, dict):
        return [f"hydra.{kind} must be chosen by hydra/{kind}=..., got {as_yaml(node)}"]
    problems = problems_of_values({"hydra": {kind: node}})
    problems += _problems_of_sweeper(node) if kind == "sweeper" else []
    package, extra = EXTRAS.get(str(node.get("_target_")), (None, None))
    if package and importlib.util.find_spec(package) is None:
        problems.append(f"hydra.{kind} needs {package}, which is not installed: uv sync --extra {extra}")
    return problems


def _references() -> frozenset[str]:
    return texts_matching(r"[\w.%/{}$]*\$\{[\w.]+\}[\w.%/{}$]*", "hydra")


def _problems_of_sweeper(sweeper: dict[str, Any]) -> list[str]:
    problems = []
    if sweeper.get("_target_") == SEARCH:
        keys = load(file_of("hydra/sweeper", "optuna"))
        problems += [f"hydra.sweeper.{key} is not an option of a search" for key in sweeper if key not in keys]
        problems += [f"hydra.sweeper.{key} is missing" for key in keys if key not in sweeper]
        problems += _problems_of_storage(sweeper.get("storage"))
    swept = sweeper.get("params")
    if swept is not None and not isinstance(swept, dict):
        return [*problems, f"hydra.sweeper.params must map keys to their values, or be null, got {as_yaml(swept)}"]
    return problems + [
        f"hydra.sweeper.params must not hold {key}: only the command line may set it"
        for key in swept or ()
        if re.split(r"[./@:=]", str(key).strip().lstrip("+~"))[0] in NOT_SWEPT
    ]


def _problems_of_storage(storage: Any) -> list[str]:
    if storage is not None and not re.match(DATABASES, str(storage)):
        return [f"hydra.sweeper.storage must begin with sqlite:/// or postgresql://, or be null, got {storage!r}"]
    needed = ("optuna", "psycopg") if str(storage).startswith("postgresql") else ("optuna",)
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    return [f"hydra.sweeper needs {package}, which is not installed: uv sync --extra optuna" for package in missing]
