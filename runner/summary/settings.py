"""Which keys of the configs of a sweep tell its groups apart: the columns on the left of its table.

A choice from a config group (the optimizer, the penalties) is one column with its name; the options that come with it
have a column only where somebody set them to something else than the group's file under conf/ says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from runner.config.allowlist import CONF, GROUPS
from runner.config.rules import as_yaml
from runner.storage.directory import identity, short

Config = Mapping[str, Any]
RESERVED = {"best", "n", "diverged", "sweep"}  # columns of the table itself
MEMBER = re.compile(r"\.\d+(\.|$)")  # of a list, which is a value as a whole
BLANK = object()  # no value, which is another thing than null


def swept(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Return for each config the values that tell it from the others, by short names; keys that it lacks are left out.

    The order of the columns is that of the configs, choices before options. The seed is never one.
    """
    tables = [flat(config) for config in configs]
    usual = [usual_values(config) for config in configs]
    paths = list(dict.fromkeys(path for table in tables for path in table))
    differing = {path for path in paths if len({as_yaml(table.get(path, BLANK)) for table in tables}) > 1}
    choices = [group for group in GROUPS if group in differing]

    def comes_with_a_choice(path: str) -> bool:
        return path.partition(".")[0] in choices and all(
            path not in table or table[path] == file.get(path, BLANK) for table, file in zip(tables, usual, strict=True)
        )

    kept = [path for path in paths if path in choices or (path in differing and not comes_with_a_choice(path))]
    names = short_names(kept)
    return [{names[path]: table[path] for path in kept if path in table} for table in tables]


def flat(config: Config) -> dict[str, Any]:
    """Return what can change the result, by path, less the seed; the choices stand first, under their groups' names."""
    choices = {group: "+".join(names_of(group, config)) or "none" for group in GROUPS}
    leaves = {
        path: value
        for path, value in identity(config).items()
        if path not in ("seed", *GROUPS) and not MEMBER.search(path) and not is_choice(path)
    }
    return choices | leaves


def is_choice(path: str) -> bool:
    """Tell whether a path is the class of a choice, which stands in the column of its group."""
    depth = 2 if path.startswith(("penalty.", "probe.")) else 1
    return path.endswith("._target_") and path.count(".") == depth


def names_of(group: str, config: Config) -> list[str]:
    """Return the names of what a config has chosen from a group: as the files under conf/, or else the class."""
    node = config.get(group)
    if not isinstance(node, dict):
        return []
    if group in ("penalty", "probe"):
        return list(node)
    fitting = {name: file for name, file in files_of(group).items() if can_come_from(file, node)}
    if not fitting:
        return [str(node.get("_target_")).rpartition(".")[2]]

    def likeness(name: str) -> tuple[int, int]:
        file = fitting[name]
        return len(file), sum(node[key] == value for key, value in file.items())

    return [max(fitting, key=likeness)]


def can_come_from(file: Config, node: Config) -> bool:
    """Tell whether a node can come from a file: its class is the same, and no key is missing."""
    return file.get("_target_") == node.get("_target_") and file.keys() <= node.keys()


@cache
def files_of(group: str) -> dict[str, Config]:
    """Return the files of a group under conf/ by their names."""
    paths = sorted((CONF / group).glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text()) or {} for path in paths}


def usual_values(config: Config) -> dict[str, Any]:
    """Return what the files of the choices of a config give, by path."""
    usual: dict[str, Any] = {}
    for group in GROUPS:
        for name in names_of(group, config):
            usual |= identity({group: files_of(group).get(name, {})})
    return usual


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return a short name for each path; the whole path where the short one would be taken for something else."""
    taken = Counter(map(short, paths))
    return {path: path if taken[short(path)] > 1 or short(path) in RESERVED else short(path) for path in paths}


def sort_key(value: Any) -> tuple[Any, ...]:
    """Return a key to sort values by: none at all first, then numbers by size, words, and lists, short ones first."""
    if value is BLANK:
        return (0,)
    if is_number(value):
        return 1, value
    return (3, len(value), [sort_key(member) for member in value]) if isinstance(value, list) else (2, as_typed(value))


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_typed(value: Any) -> str:
    """Return a value as it is typed on the command line; nothing for none at all."""
    if value is BLANK:
        return ""
    return value if isinstance(value, str) else as_yaml(value)
