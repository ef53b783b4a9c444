"""The whole check of a composed config, before anything is built or written, and without torch."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from runner.config.allowlist import problems_of_targets
from runner.config.compose import Composed, allowed_packages
from runner.config.conf_files import GROUPS, NAMED, SINGLE, file_of, load, main_config, options
from runner.config.hydra_node import problems_of_hydra
from runner.config.objective import problems_of_metric
from runner.config.rules import SHAPES, problems_of_values
from runner.config.tree import as_yaml, walk

ELSEWHERE = "uv run train.py --help lists the keys, and docs/own_classes.md says how code of your own is used"


class ConfigError(ValueError):
    """A config that cannot be run; its text is one sentence a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(dict.fromkeys(problems)))


def exit_with_problems(problems: Sequence[str]) -> NoReturn:
    """Print each problem on a line of its own and exit with code 2."""
    for problem in dict.fromkeys(problems):
        print(re.sub(r"[^\S ]+|[\x00-\x1f\x7f]", " ", problem), file=sys.stderr)  # a line each, whatever was typed
    sys.exit(2)


def problems_of(composed: Composed, are_all: bool = True) -> list[str]:
    """Return all that is wrong with a composed config, Hydra's own node included, a sentence each.

    Args:
        composed: the config.
        are_all: whether all options are there, so that values may be checked against each other.
    """
    packages = allowed_packages(composed.overrides)
    return problems_of_hydra(composed.hydra) + problems_of_config(composed.values, packages, are_all)


def problems_of_config(config: dict[str, Any], packages: Sequence[str] = (), are_all: bool = True) -> list[str]:
    """Return all that is wrong with the values of a config, of which `allow_targets` allows some packages."""
    problems = _problems_of_keys(config)
    if problems:  # the checks below rely on the keys
        return problems
    problems += problems_of_targets(config, list(packages)) + problems_of_values(config)
    problems += [f"{group} must be chosen: {group}=..." for group in SINGLE if not _names_class(config[group])]
    problems += [
        f"{group}.{name} must name a class by _target_"
        for group in NAMED
        if isinstance(config[group], dict)
        for name, options in config[group].items()
        if not _names_class(options)
    ]
    if list(packages) != config["allow_targets"]:
        got = as_yaml(config["allow_targets"])
        problems.append(f"allow_targets must be given on the command line, got {got} from a file")
    return problems or (_problems_together(config) if are_all else [])


def _problems_of_keys(config: dict[str, Any]) -> list[str]:
    """Return a sentence for each key that config.yaml does not have, or that is missing of those that it has."""
    keys = sorted({*main_config(), *GROUPS} - {"defaults", "hydra"})
    problems = [f"{key} is not a key of the config: {_hint_for(key, keys)}" for key in config if key not in keys]
    problems += [
        f"{part}.{key} is not a key of the config: {part} has {', '.join(main_config()[part])}"
        for part in ("sweep", "resources")
        if isinstance(config.get(part), dict)
        for key in config[part]
        if key not in main_config()[part]
    ]
    problems += [f"{key} is missing" for key in keys if key not in config]
    problems += [
        f"{group} must map a name of your choice to _target_ and its options, got them without a name"
        for group in NAMED
        if _names_class(config.get(group))
    ]
    if problems:
        return problems
    present = {path for path, _ in walk(config)}
    wanted = [path for path, _ in walk(main_config()) if re.fullmatch(r"(\w+\.)+[a-z_]+", path)]  # no member of a list
    return [f"{path} is missing" for path in wanted if path not in present and path.partition(".")[0] in keys]


def _hint_for(key: str, keys: Sequence[str]) -> str:
    if key in ("experiment", "sweep"):
        return f"the first line of a file in the folder {key} must be # @package _global_"
    near = get_close_matches(str(key).lower(), keys, 1)
    return f"did you mean {near[0]}?" if near else ELSEWHERE


def _problems_together(config: dict[str, Any]) -> list[str]:
    problems = _problems_of_shapes(config["model"]["_target_"], config["data"]["_target_"])
    if (metric := config["objective_metric"]) is not None:
        problems += problems_of_metric("objective_metric", metric, config)
    terms = [options for options in config["penalty"].values() if options.get("weight", 1) != 0]
    if config["loss"]["weight"] == 0 and not terms:
        problems.append("loss.weight must be above 0 without a penalty, got 0: there is nothing to minimise")
    return problems


def _problems_of_shapes(model: str, data: str) -> list[str]:
    takes, got = SHAPES.get(model), SHAPES.get(data)
    if not takes or not got or takes == got:
        return []
    fitting = [name for name in options("model") if SHAPES.get(load(file_of("model", name)).get("_target_", "")) == got]
    choices = " or ".join(f"model={name}" for name in (*fitting, *(["convnet"] if "x" in got else []), "mlp"))
    return [f"model: {model.rpartition('.')[2]} takes {takes} inputs, got {got}: choose {choices}"]


def _names_class(node: Any) -> bool:
    return isinstance(node, dict) and "_target_" in node
