"""Configs from overrides, by Hydra. All that we use of Hydra's private names is in this file.

Hydra takes 80 ms to compose a config. So it composes once for each choice of options from the config groups; single
values are then set on a copy, by the function that Hydra itself uses.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType, RangeSweep, ValueType
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config.conf_files import CONF
from runner.config.tree import as_typed, value_at, with_home
from runner.config.words import as_read, parsed

SEARCH_PATH = "hydra.searchpath"


class Composed(NamedTuple):
    """A composed config.

    Attributes:
        values: the config, resolved but for `sweep.arms`, as plain dicts, lists and values, without Hydra's own node.
        overrides: the lines that were typed, or that a sweep made, without those of Hydra's own node.
        hydra: Hydra's own node, plain but not resolved.
    """

    values: dict[str, Any]
    overrides: list[str]
    hydra: dict[str, Any]

    @property
    def words(self) -> list[str]:
        """The words of a command that composes the same: the user's own folders, and the overrides."""
        sources = self.hydra["runtime"]["config_sources"]
        folders = [os.path.relpath(source["path"]) for source in sources if source["provider"] == "command-line"]
        searched = [line for line in self.hydra["overrides"]["hydra"] if parsed(line).key_or_group == SEARCH_PATH]
        return [*(f"--config-dir={folder}" for folder in folders), *searched, *self.overrides]


class Composer:
    """Composes configs that differ in their overrides.

    Args:
        loader: Hydra's.
        common: overrides of all configs, such as those of Hydra's own node.
    """

    def __init__(self, loader: ConfigLoader, common: Sequence[str] = ()) -> None:
        self._loader, self._common = loader, list(common)
        self._bases: dict[tuple[str, ...], tuple[DictConfig, Composed]] = {}
        # Hydra's loader copies all its files' contents for each question about a group: ask a copy of our own.
        paths = [line for line in common if parsed(line).key_or_group == SEARCH_PATH]
        _, self._files = loader._parse_overrides_and_create_caching_repo("config", paths)  # type: ignore[attr-defined]
        self._is_group: dict[str, bool] = {}

    def parsed(self, line: str) -> Override:
        """Return one override, parsed, whose `glob` finds the options of all folders."""
        override = parsed(line)
        override.config_loader = self._loader
        return override

    def is_choice(self, override: Override) -> bool:
        """Tell whether an override chooses options from a config group."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = self._files.group_exists(key)
        return self._is_group[key]

    def options(self, group: str) -> list[str]:
        """Return the names of a group's options, those in the user's folders included."""
        return self._files.get_group_options(group)

    def config(self, lines: Sequence[str]) -> DictConfig:
        """Return Hydra's own config with some overrides, not resolved."""
        return self._loader.load_configuration("config", [*self._common, *lines], RunMode.RUN, from_shell=False)

    def for_jobs(self, lines: Sequence[str]) -> Composer:
        """Return the composer of a sweep's jobs: overrides of Hydra's own node are common to all."""
        return Composer(self._loader, [line for line in lines if is_hydras(line)])

    def compose(self, lines: Sequence[str]) -> Composed:
        """Return the config with some overrides, each with one value."""
        overrides = {line: parsed(line) for line in lines}
        choices = tuple(line for line in lines if self.is_choice(overrides[line]))
        if choices not in self._bases:
            config = self.config(choices)
            self._bases[choices] = config, composed_of(config, config.hydra, choices)
        config, base = self._bases[choices]
        rest = [overrides[line] for line in lines if line not in choices]
        if not _has_references(config) and all(_replaces_a_value(override, base.values) for override in rest):
            values = copy.deepcopy(base.values)  # as in most jobs of a sweep
            for override in rest:
                parent, _, key = override.key_or_group.rpartition(".")
                value_at(values, parent)[key] = with_home(override.value())
            return Composed(values, _of_a_job(lines), base.hydra)
        config = copy.deepcopy(config)
        ConfigLoaderImpl._apply_overrides_to_config(rest, config)
        return composed_of(config, config.hydra, lines)


def is_hydras(line: str) -> bool:
    """Tell whether an override is of Hydra's own node: of the launcher, the sweeper, the search path."""
    return re.match(r"hydra[./]", parsed(line).key_or_group) is not None


def _of_a_job(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not is_hydras(line)]


def _has_references(config: DictConfig) -> bool:
    return any(key != "hydra" and "${" in str(config._get_node(key)) for key in config)


def _replaces_a_value(override: Override, values: dict[str, Any]) -> bool:
    """Tell whether an override gives a key that exists another plain value, for which OmegaConf is not needed."""
    parent, _, key = override.key_or_group.rpartition(".")
    siblings, new = value_at(values, parent), override.value()
    is_change = override.type == OverrideType.CHANGE and override.package is None
    is_plain = new is None or (isinstance(new, bool | int | float | str) and not ("$" in str(new) or new == "???"))
    return is_change and is_plain and isinstance(siblings, dict) and not isinstance(siblings.get(key, {}), dict | list)


def composed_of(config: DictConfig, hydra: DictConfig, lines: Sequence[str]) -> Composed:
    """Return a config of Hydra's in plain values."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    arms = OmegaConf.select(own, "sweep.arms")
    if arms:  # what `${...}` refers to in their texts is told by each job
        own.sweep.arms = None
    values: Any = with_home(OmegaConf.to_container(own, resolve=True))
    if arms:
        values["sweep"]["arms"] = OmegaConf.to_container(arms, resolve=False) if OmegaConf.is_config(arms) else arms
    node: Any = OmegaConf.to_container(hydra, resolve=False)
    return Composed(values, _of_a_job(lines), node)


def arguments_parser() -> ArgumentParser:
    """Return Hydra's reader of flags, which tells of its errors in a sentence and takes no abbreviations."""
    parser = get_args_parser()
    parser.allow_abbrev = False

    def refuse(message: str) -> NoReturn:
        print(f"{message}: uv run train.py --help has examples", file=sys.stderr)
        sys.exit(2)

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def loader_with(folder: str | None = None) -> ConfigLoader:
    """Return a loader of configs, which reads the project's files.

    Args:
        folder: of the user's own configs (null: none).
    """
    setup_globals()
    search_path = create_config_search_path(str(CONF))
    if folder:
        search_path.prepend("command-line", f"file://{os.path.abspath(folder)}", SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(search_path)


@cache
def project_composer() -> Composer:
    """Return the composer of this process that sees the project's own files alone."""
    return Composer(loader_with())


def with_value(override: Override, value: Any) -> str:
    """Return a swept override with one value, as it is typed."""
    return f"{override.get_key_element()}={Override._get_value_element_as_str(value)}"


def grid(lines: Sequence[str], composer: Composer | None = None) -> list[list[str]]:
    """Return all combinations of the values that some overrides have, each as overrides with one value.

    `glob` needs the composer, which knows the options.
    """
    return combinations([composer.parsed(line) if composer else parsed(line) for line in lines])


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the same of overrides that are parsed; those with one value stay as they were typed."""
    values = [
        [f"{override.get_key_element()}={value}" for value in with_exact_steps(override).sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in overrides
    ]
    return [list(combination) for combination in itertools.product(*values)]


def with_exact_steps(override: Override) -> Override:
    """Return an override with the values that its range of floats has in decimal: .3, not .30000000000000004."""
    sweep = override.value()
    if not isinstance(sweep, RangeSweep) or isinstance(sweep.range(), range):
        return override
    start, stop, step = (Decimal(f"{value:.12g}") for value in (sweep.start, sweep.stop, sweep.step))
    steps: list[Any] = [float(start + number * step) for number in range(math.ceil((stop - start) / step))]
    choices = ChoiceSweep(tags=sweep.tags, list=steps, shuffle=sweep.shuffle)
    return replace(override, value_type=ValueType.CHOICE_SWEEP, _value=choices)


def typed_lines(node: Mapping[str, Any]) -> list[str]:
    """Return keys and values as overrides; the values are written as on the command line: "0.1,0.2" is a grid."""
    return [as_read(f"{key}={as_typed(value)}") for key, value in node.items()]


def allowed_packages(lines: Sequence[str]) -> list[str]:
    """Return the packages that `allow_targets` on the command line allows."""
    values = [parsed(line).value() for line in lines if parsed(line).key_or_group == "allow_targets"]
    last = values[-1] if values else []
    return list(map(str, last)) if isinstance(last, list) else []
