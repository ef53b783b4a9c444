"""Which classes may be built: exactly those that the files under conf/ name, group by group.

A prefix would be no boundary (`torch.nn.parallel.distributed.os.system` resolves), so whole names are compared.
`allow_targets=[package]` on the command line also allows classes that are defined in that package (`resolve`).
"""

import importlib
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from runner.config.conf_files import texts_matching
from runner.config.tree import walk


def runs_jobs(target: Any) -> bool:
    """Tell whether a class is a launcher or a sweeper of this project's."""
    return target in _known_targets("hydra")


def _known_targets(group: str) -> frozenset[str]:
    return texts_matching(r"^\s*_target_:\s*([\w.]+)", group)


def problems_of_targets(config: dict[str, Any], packages: list[str]) -> list[str]:
    """Return a sentence for each `_target_` that may not be built, wherever in the config it stands."""
    problems = []
    for path, value in walk(config):
        group, key = _group_of(path), path.rpartition(".")[2]
        if key in ("_args_", "_partial_", "_convert_", "_recursive_"):
            problems.append(f"{path} is not allowed: give the arguments by name")
        if key == "_target_" and not is_allowed(group, value, packages):
            near = get_close_matches(str(value), _known_targets(group), 1)
            did_you_mean = f"did you mean {near[0]}? " if near else ""
            problems.append(
                f"{path} must be one of the classes that conf/ names, got {value!r}: {did_you_mean}"
                "For a class of your own, add allow_targets=[its_package] to the command line"
            )
    return problems


def _group_of(path: str) -> str:
    """Return the config group whose files name what may stand at a path.

    An arm's overrides are paths themselves; a probe may have a penalty to measure.
    """
    path = re.sub(r"^sweep\.arms\.[^.]+\.", "", path)
    return "penalty" if re.match(r"probe\.[^.]+\.penalty\.", path) else path.partition(".")[0]


def is_allowed(group: str, target: Any, packages: Sequence[str]) -> bool:
    """Tell whether a config group may name this target."""
    if not isinstance(target, str):
        return False
    return target in _known_targets(group) or target.partition(".")[0] in packages


def resolve(target: str) -> Any:
    """Import and return the class or function of an allowed target.

    Raises:
        ValueError: if there is none, or if it is defined elsewhere than in the package that its name begins with
            (a module that an allowed one imports is not allowed for that).
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
