"""Which classes a config may name: exactly those that the files under `conf/` name, group by group.

A prefix would be no boundary (`torch.nn.parallel.distributed.os.system` resolves), so the list is of whole names.
A user's own package is admitted by `allow_targets=[package]` on the command line, and then only for what is
defined in that package (`resolve`).
"""

from __future__ import annotations

import importlib
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.rules import walk

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("data", "model", "init", "loss", "optimizer", "scheduler", "penalty", "probe")


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
