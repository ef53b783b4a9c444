"""The whole check of a composed config, before anything is built or written, and without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

import yaml

from runner.config.allowlist import CONF, GROUPS, problems_of_targets
from runner.config.rules import as_yaml, problems_of_values, walk


class ConfigError(ValueError):
    """A config that cannot be run; its text is one sentence a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(dict.fromkeys(problems)))


def problems_of_config(config: dict[str, Any], packages: Sequence[str] = ()) -> list[str]:
    """Return all that is wrong with a composed and resolved config, a sentence each.

    Args:
        config: plain dicts, lists and values.
        packages: what `allow_targets` on the command line admits.
    """
    problems = [
        f"{key} is not a key of the config: it has {', '.join(sorted(top_keys()))}"
        for key in config
        if key not in top_keys()
    ]
    problems += [f"{key} is missing" for key in sorted(top_keys()) if key not in config]
    problems += [
        f"{kind} must map a name of your choice to _target_ and its options, got them without a name"
        for kind in GROUPS[6:]
        if names_class(config.get(kind))
    ]
    if problems:
        return problems
    problems += problems_of_targets(config, list(packages)) + problems_of_values(config)
    problems += [f"{group} must be chosen: {group}=..." for group in GROUPS[:6] if not names_class(config[group])]
    present = {path for path, _ in walk(config)}
    problems += [f"{path} is missing" for path in common_paths() if path not in present]
    problems += [
        f"{kind}.{name} must name a class by _target_"
        for kind in GROUPS[6:]
        if isinstance(config[kind], dict)
        for name, options in config[kind].items()
        if not names_class(options)
    ]
    if list(packages) != config["allow_targets"]:
        problems.append(
            f"allow_targets is honoured from the command line alone, got {as_yaml(config['allow_targets'])} from a file"
        )
    return problems or problems_together(config)


def problems_together(config: dict[str, Any]) -> list[str]:
    """Return what is wrong with values that are fine each by itself."""
    problems = []
    terms = [options for options in config["penalty"].values() if options.get("weight", 1) != 0]
    if config["loss"]["weight"] == 0 and not terms:
        problems.append("loss.weight must be above 0 without a penalty, got 0: there is nothing to minimise")
    return problems


def names_class(node: Any) -> bool:
    """Tell whether a node of a config says what to build."""
    return isinstance(node, dict) and "_target_" in node


@cache
def common_paths() -> tuple[str, ...]:
    """Return the paths that every config has: those of the main config below its groups."""
    main = yaml.safe_load((CONF / "config.yaml").read_text())
    return tuple(path for path, _ in walk(main) if "." in path and path.partition(".")[0] in top_keys())


@cache
def top_keys() -> frozenset[str]:
    """Return the keys of the main config, groups included."""
    main = yaml.safe_load((CONF / "config.yaml").read_text())
    return frozenset({*main, *GROUPS} - {"defaults", "hydra"})


def exit_with_problems(problems: Sequence[str]) -> NoReturn:
    """Print each problem on a line of its own and leave with exit code 2."""
    for problem in dict.fromkeys(problems):
        print(problem, file=sys.stderr)
    sys.exit(2)
