"""`--help`: the groups with their options, examples, and each key with its meaning, read from the files under conf/."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("data", "model", "init", "loss", "optimizer", "scheduler", "penalty", "probe", "experiment", "sweep")
KEY_WIDTH = 46

INTRODUCTION = """\
Train a small network with penalties: terms in the objective beyond the data loss.

  objective = loss.weight * mean(loss of each example) + sum of weight * penalty

usage: python train.py [group=option ...] [key=value ...]       one run
       python train.py -m [key=value1,value2,... ...]           a sweep over the grid
       python train.py --help [group=option ...]                the keys of these options
       python train.py --cfg job [...]                          the composed config, nothing run

Examples
  python train.py
  python train.py model=mnist_convnet data=mnist penalty=jacobian penalty.jacobian.weight=0.01
  python train.py penalty=[l2,l1] penalty.l2.weight=0.001 penalty.l1.method=subgradient
  python train.py model=mlp data=sine optimizer=adam epochs=200 'model.widths=[100,100]' model.activation=tanh
  python train.py -m penalty=l2 penalty.l2.weight=0,0.001,0.002 'seed=range(5)'
"""
CLOSING = """
A YAML file of yours is found with --config-dir FOLDER; a class of yours with allow_targets=[your_package].
Tab completion, for `python train.py`: eval "$(python train.py -sc install=bash)"
"""


def show(arguments: Sequence[str]) -> None:
    """Print the help, with the keys of the options chosen on the command line."""
    chosen = defaults() | dict(argument.split("=", 1) for argument in arguments if re.match(r"\w+=", argument))
    print(INTRODUCTION)
    print("Groups, each with its options; * is chosen")
    for group in filter(has_options, GROUPS):
        names = ["*" + name if name in chosen_names(chosen, group) else name for name in options(group)]
        print("\n".join(wrapped(f"  {group:<11}", names)))
    print("\nKeys, with their values and meanings")
    for line in keys_of(CONF / "config.yaml"):
        print(line)
    for group in filter(has_options, GROUPS):
        for name in chosen_names(chosen, group):
            path = CONF / group / f"{name}.yaml"
            if path.exists():
                print(f"\n  {group}={name}")
                print("\n".join(keys_of(path, prefix="" if is_nested(path) else f"{group}.")))
    print(CLOSING)


def defaults() -> dict[str, str]:
    """Return the option that the main config chooses of each group."""
    return dict(re.findall(r"^  - (\w+): (\w+)$", (CONF / "config.yaml").read_text(), re.M))


def chosen_names(chosen: dict[str, str], group: str) -> list[str]:
    """Return the names chosen of a group, several in brackets."""
    return re.findall(r"\w+", chosen.get(group, ""))


def options(group: str) -> list[str]:
    """Return the names that a group offers."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def has_options(group: str) -> bool:
    """Tell whether a group has any options."""
    return bool(options(group))


def is_nested(path: Path) -> bool:
    """Tell whether a file nests its keys under its own name and stands for a mapping of the group's (penalties)."""
    return path.parent.name in ("experiment", "sweep")


def keys_of(path: Path, prefix: str = "") -> list[str]:
    """Return a line for each commented key of a YAML file: full name, value, meaning."""
    lines: list[str] = []
    parents: list[str] = []
    for line in path.read_text().splitlines():
        found = re.match(r"( *)([\w-]+):\s*(.*?)\s*(?:#\s*(.*))?$", line)
        if not found:
            continue
        indent, key, value, meaning = found.groups()
        parents = [*parents[: len(indent) // 2], key]
        if meaning:
            name = prefix + ".".join(parents)
            lines.append(f"  {name + '=' + value:<{KEY_WIDTH}} {meaning}")
    return lines


def wrapped(head: str, names: Sequence[str], width: int = 100) -> list[str]:
    """Return names in lines of at most `width` characters behind a head."""
    lines = [head]
    for name in names:
        if len(lines[-1]) + len(name) + 1 > width:
            lines.append(" " * len(head))
        lines[-1] += f" {name}"
    return lines
