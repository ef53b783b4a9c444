"""The files under conf/. No other module reads them."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parents[2] / "conf"
SINGLE = ("data", "model", "init", "loss", "optimizer", "scheduler", "augment")  # groups of which a run has one option
NAMED = ("penalty", "probe")  # groups of which a run has any number, each under a name
GROUPS = (*SINGLE, *NAMED)


def file_of(group: str, option: str) -> Path:
    """Return the file of an option of a group, which may not exist."""
    return CONF / group / f"{option}.yaml"


@cache
def options(group: str) -> tuple[str, ...]:
    """Return the names of a group's options."""
    return tuple(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


@cache
def load(path: Path) -> dict[str, Any]:
    """Return the content of a file, {} if there is none. It is shared: do not change it."""
    import yaml  # late: `--help` answers without it

    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


@cache
def _files_of(group: str) -> dict[str, dict[str, Any]]:
    return {name: load(file_of(group, name)) for name in options(group)}


def main_config() -> dict[str, Any]:
    """Return the content of config.yaml."""
    return load(CONF / "config.yaml")


def default_options() -> dict[str, str]:
    """Return the option that config.yaml chooses of each group, as text, without reading YAML."""
    return dict(re.findall(r"^  - (?:override )?([\w/]+): (\w+)$", (CONF / "config.yaml").read_text(), re.M))


@cache
def texts_matching(pattern: str, group: str) -> frozenset[str]:
    """Return what a regular expression finds in the files of a group; config.yaml is one of the group hydra."""
    files = [*(CONF / group).rglob("*.yaml"), *([CONF / "config.yaml"] if group == "hydra" else [])]
    return frozenset(found for path in files for found in re.findall(pattern, path.read_text(), re.M))


def chosen_options(group: str, config: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that a config has chosen from a group, or of the class if no file names it."""
    node = config.get(group)
    if not isinstance(node, dict):
        return []
    if group in NAMED:
        return list(node)
    fitting = {
        name: file
        for name, file in _files_of(group).items()
        if file.get("_target_") == node.get("_target_") and file.keys() <= node.keys()
    }
    if not fitting:
        return [str(node.get("_target_")).rpartition(".")[2]]

    def likeness(name: str) -> tuple[int, int]:
        file = fitting[name]
        return len(file), sum(node[key] == value for key, value in file.items())

    return [max(fitting, key=likeness)]


def default_values() -> dict[str, Any]:
    """Return the config of a run for which nothing is chosen."""
    values = {key: value for key, value in main_config().items() if key not in ("defaults", "hydra")}
    chosen = default_options()
    return values | {group: {**values.get(group, {}), **load(file_of(group, chosen[group]))} for group in SINGLE}


def usual_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the files under conf/ alone give for the options that a config has chosen."""
    usual = {key: value for key, value in main_config().items() if key not in ("defaults", "hydra")}
    for group in GROUPS:
        for name in chosen_options(group, config):
            usual[group] = {**usual.get(group, {}), **load(file_of(group, name))}
    return usual
