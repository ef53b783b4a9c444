"""`--help`: the groups with their options, examples, and each key with its meaning, read from the files under conf/."""

import importlib.metadata
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from runner.config.conf_files import CONF, GROUPS, default_options, file_of, options

PRINTED = (*GROUPS, "experiment", "sweep", "hydra/launcher", "hydra/sweeper")
KEY_WIDTH = 46

INTRODUCTION = """\
Train a small network with penalties, which are terms added to the data loss in the objective.

  objective = loss.weight * mean(loss of each example) + sum of weight * penalty

usage: uv run train.py [group=option ...] [key=value ...]       one run
       uv run train.py -m [key=value1,value2,... ...]           a sweep over all combinations
       uv run train.py --help [group=option ...]                the keys of these options too
       uv run train.py --cfg job [...]                          print the composed config only
       uv run train.py --version                                the versions of this project and of torch

Examples
  uv run train.py
  uv run train.py model=mnist_convnet data=mnist penalty=jacobian penalty.jacobian.weight=0.01
  uv run train.py penalty=[l2,l1] penalty.l2.weight=0.001 penalty.l1.method=subgradient
  uv run train.py model=mlp data=sine loss=mse optimizer=adam epochs=200 'model.widths=[100,100]' model.activation=tanh
  uv run train.py -m penalty=l2 penalty.l2.weight=0,0.001,0.002 'seed=range(5)'
"""
CLOSING = """
Your own YAML files: --config-dir FOLDER. Your own classes: allow_targets=[your_package].
Tab completion for `python train.py`: eval "$(python train.py -sc install=bash)"
"""


def show(arguments: Sequence[str]) -> None:
    """Print the help, with the keys of the options chosen on the command line; with --version the version alone."""
    try:
        print("\n".join([version()] if "--version" in arguments else _lines_of_help(arguments)), flush=True)
    except BrokenPipeError:  # `--help | head`: nobody reads on, so Python's own flush at the exit must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def version() -> str:
    """Return the version of this project, which is installed nowhere, and that of torch, without importing it."""
    number = re.search(r'^version = "(.+)"$', (CONF.parent / "pyproject.toml").read_text(), re.M)
    return f"penalty-lab {number[1] if number else 'unknown'}, torch {importlib.metadata.version('torch')}"


def _lines_of_help(arguments: Sequence[str]) -> list[str]:
    chosen = default_options() | dict(
        argument.split("=", 1) for argument in arguments if re.match(r"[\w/]+=", argument)
    )
    lines = [INTRODUCTION, "Groups with their options; * marks the chosen ones"]
    for group in PRINTED:
        names = ["*" + name if name in _chosen_names(chosen, group) else name for name in options(group)]
        head = f"  {group:<14} "
        lines += textwrap.wrap(" ".join(names), 100, initial_indent=head, subsequent_indent=" " * len(head))
    lines += ["\nKeys with their values and meanings", *keys_of(CONF / "config.yaml")]
    for group in PRINTED:
        for name in _chosen_names(chosen, group):
            lines += _keys_of_option(group, name)
    return [*lines, CLOSING]


def _keys_of_option(group: str, name: str) -> list[str]:
    path = file_of(group, name)
    if path.exists():
        prefix = "" if _is_global(path) else f"{group.replace('/', '.')}."
        return [f"\n  {group}={name}: {meaning(path)}", *keys_of(path, prefix)]
    return [] if name == "null" else [f"\n  {group}={name} is not an option: there are {', '.join(options(group))}"]


def _chosen_names(chosen: dict[str, str], group: str) -> list[str]:
    return re.findall(r"\w+", chosen.get(group, ""))


def meaning(path: Path) -> str:
    """Return the first sentence about a file."""
    return next(line for line in path.read_text().splitlines() if not line.startswith("# @package"))[2:]


def _is_global(path: Path) -> bool:
    return path.read_text().startswith("# @package _global_")


def keys_of(path: Path, prefix: str = "") -> list[str]:
    """Return a line for each commented key of a YAML file: full name, value, meaning."""
    lines: list[str] = []
    parents: list[str] = []
    for line in path.read_text().splitlines():
        found = re.match(r"( *)([\w.-]+):\s*(.*?)\s*(?:#\s*(.*))?$", line)
        if not found:
            continue
        indent, key, value, meaning = found.groups()
        parents = [*parents[: len(indent) // 2], key]
        if meaning:
            name = prefix + ".".join(parents)
            lines.append(f"  {name + '=' + value:<{KEY_WIDTH}} {meaning}")
    return lines
