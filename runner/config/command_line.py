"""From the words of a command line to one checked command; all mistakes are told at once, Hydra stops at the first."""

import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from runner.config.check import exit_with_problems
from runner.config.compose import (
    SEARCH_PATH,
    Composed,
    Composer,
    arguments_parser,
    loader_with,
    project_composer,
    typed_lines,
)
from runner.config.conf_files import NAMED, default_values
from runner.config.hydra_node import SEARCH
from runner.config.overrides import COMPOSITION_ERRORS, one_line, problems_of_values, sorted_out, values_of, variants
from runner.config.tree import as_typed, value_at
from runner.config.words import parsed, read

PROBLEMS_SHOWN = 20


class Command(NamedTuple):
    """What a command line asks for, checked.

    Attributes:
        arguments: as they were typed.
        lines: the overrides among them, as Hydra's grammar reads them.
        config: with the first value of each key.
        composer: of further configs.
        is_sweep: whether the values of a grid, the arms or the trials are each a job.
        shown: which part of the config is to be shown, and nothing trained: job, hydra or all.
        package: key below which it is shown (null: all of it).
        resolve: show values in the place of `${...}`.
    """

    arguments: Sequence[str]
    lines: Sequence[str]
    config: Composed
    composer: Composer
    is_sweep: bool
    shown: str | None = None
    package: str | None = None
    resolve: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the runs."""
        return Path(self.config.values["runs_dir"], self.config.values["name"])

    def shown_config(self) -> str:
        """Return the part of the config that is to be shown, as YAML; exit with code 2 if there is none."""
        config = self.composer.config(self.lines)
        parts = {"job": [key for key in config if key != "hydra"], "hydra": ["hydra"], "all": list(config)}
        if self.resolve:
            OmegaConf.resolve(config)
        part = OmegaConf.masked_copy(config, parts[str(self.shown)])  # type: ignore[arg-type]
        found = OmegaConf.select(part, self.package) if self.package else part
        if found is None:
            exit_with_problems([f"--package={self.package} is not in the config"])
        return OmegaConf.to_yaml(found) if OmegaConf.is_config(found) else f"{found}\n"


def read_command(arguments: Sequence[str]) -> Command:
    """Return what a command line asks for; exit with code 2 and a sentence for each problem, unless it can be run."""
    flags, unknown = arguments_parser().parse_known_args(list(arguments))
    words = [*flags.overrides, *unknown]
    lines, unread = read([word for word in arguments if word in words])
    problems = list(unread.values())
    if unknown and not unread:  # Hydra would not read them
        problems.append("flags such as -m cannot stand between options: put them first")
    if refused := _problems_of_flags(flags, lines):
        exit_with_problems([*problems, *refused])
    flags.multirun |= any(re.search("write (-m|--multirun)$", sentence) for sentence in problems)
    command, told = _checked(arguments, lines, flags, not unread)
    problems += [problem for problem in told if not _is_about(problem, unread)]
    if problems or command is None:
        exit_with_problems(problems)
    return command


def _problems_of_flags(flags: Namespace, lines: Sequence[str]) -> list[str]:
    problems = []
    if flags.config_path or flags.config_name:
        problems.append("--config-path and --config-name are not supported: add a folder of yours by --config-dir")
    if flags.experimental_rerun:  # Hydra would take the overrides from a file, and `allow_targets` with them
        problems.append("--experimental-rerun is not supported: the same command finds its run again")
    if flags.multirun and flags.cfg:
        problems.append("--cfg shows one config, and -m has many: leave out -m and values behind a comma")
    for flag in ("hydra_help", "info"):
        if getattr(flags, flag):
            problems.append(f"--{flag.replace('_', '-')} is not supported: --help and --cfg tell of the options")
    if flags.config_dir and not os.path.isdir(flags.config_dir):
        problems.append(f"--config-dir must be a folder, got {flags.config_dir!r}")
    if any(SEARCH_PATH in line and "pkg://" in line for line in lines):  # it would be imported
        problems.append("hydra.searchpath must name folders, file://..., not packages")
    return problems


def _checked(
    arguments: Sequence[str], lines: Sequence[str], flags: Namespace, are_all: bool
) -> tuple[Command | None, list[str]]:
    """Return the command whose config has the first values of all options, and what is wrong with these."""
    command, problems = None, list[str]()
    try:
        paths = [line for line in lines if parsed(line).key_or_group == SEARCH_PATH]
        is_own = flags.config_dir or paths
        composer = Composer(loader_with(flags.config_dir), paths) if is_own else project_composer()
        right, problems = sorted_out([composer.parsed(line) for line in lines], composer)
        problems += islice(problems_of_values(right, composer, are_all and not problems), PROBLEMS_SHOWN)
        config = composer.compose(next(variants(right)))
        is_sweep = flags.multirun or str(config.hydra["mode"]).endswith("MULTIRUN")
        problems += _problems_of_swept(right, config, is_sweep)
        problems += _problems_of_arms(config, right, composer, problems)
        command = Command(arguments, lines, config, composer, is_sweep, flags.cfg, flags.package, flags.resolve)
    except COMPOSITION_ERRORS as error:
        problems.append(one_line(error))
    return command, problems


def _is_about(problem: str, unread: Mapping[str, str]) -> bool:
    keys = {re.split(r"[^\w./]", word.lstrip("+~-"))[0] for word in unread} - {""}
    return any(re.match(rf"{re.escape(key)}\b", problem) for key in keys)


def _problems_of_swept(overrides: Sequence[Override], config: Composed, in_sweep: bool) -> list[str]:
    """Return a sentence for each key that cannot have several values, or not without a sweep, and for the baseline."""
    swept = [override for override in overrides if override.is_sweep_override()]
    if not in_sweep:
        return [f"{o.key_or_group} has several values, {o.get_value_string()}: {_remedy_for(o)}" for o in swept]
    fixed = [o.key_or_group for o in swept if o.key_or_group in ("name", "runs_dir")]
    problems = [f"{key} cannot be swept: the sweep lies in ${{runs_dir}}/${{name}}" for key in fixed]
    if value_at(config.hydra, "sweeper._target_") != SEARCH:
        problems += [
            f"{o.input_line} has no values for a grid: write some, such as {o.key_or_group}="
            f"{','.join(map(str, values_of(o)))}, or search by hydra/sweeper=optuna"
            for o in swept
            if o.is_interval_sweep()
        ]
    return problems + _problems_of_baseline(config, swept)


def _remedy_for(override: Override) -> str:
    key, typed = override.key_or_group, override.get_value_string()
    usual = value_at(default_values(), key)
    remedy = "add -m for a sweep"
    if key in NAMED and override.is_choice_sweep():
        return f"{remedy}, or for all of them in one run write {key}=[{typed}]"
    if isinstance(usual, float) and re.fullmatch(r"\d+,\d+", typed):
        return f"{remedy}, or write {key}={typed.replace(',', '.')} for one number"
    return f"{remedy}, or write {key}=[{typed}] for a list" if isinstance(usual, list) else remedy


def _problems_of_baseline(config: Composed, swept: Sequence[Override]) -> list[str]:
    arms, baseline = (value_at(config.values, f"sweep.{key}") for key in ("arms", "baseline"))
    params = value_at(config.hydra, "sweeper.params")
    overrides = [*swept, *(parsed(line) for line in typed_lines(params if isinstance(params, dict) else {}))]
    known = list(arms or ()) or [
        f"{o.key_or_group}={'+'.join(value) if isinstance(value, list) else as_typed(value)}"
        for o in overrides
        if not o.is_interval_sweep()
        for value in values_of(o)
    ]
    if baseline in (None, *known):
        return []
    near = get_close_matches(str(baseline), known, 1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "it is an arm, or KEY=VALUE of a grid"
    return [f"sweep.baseline must be one of {', '.join(known) or 'what is swept'}, got {baseline}: {hint}"]


def _problems_of_arms(
    config: Composed, overrides: Sequence[Override], composer: Composer, told: Sequence[str]
) -> list[str]:
    arms = value_at(config.values, "sweep.arms")
    if not isinstance(arms, dict):
        return []
    named = "sweep.arms must have names of letters, digits, _ and -"
    problems = [f"{named}, got {arm!r}" for arm in arms if not re.fullmatch(r"[\w-]+", str(arm))]
    for arm, own in arms.items():
        if isinstance(own, dict):
            lines, unread = read(typed_lines(own))
            of_arm = {o.key_or_group: o for o in [*overrides, *map(composer.parsed, lines)]}  # the arm's own win
            right, wrong = sorted_out(list(of_arm.values()), composer)
            wrong += islice(problems_of_values(right, composer, not wrong), PROBLEMS_SHOWN)
            problems += [f"sweep.arms.{arm}: {one}" for one in [*unread.values(), *wrong] if one not in told]
    return problems
