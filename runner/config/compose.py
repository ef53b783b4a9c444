"""Configs from overrides, by Hydra. Composing one costs 80 ms, so that is done once for each choice of groups."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

SEARCH_PATH = "hydra.searchpath"


class Composer:
    """Composes configs that differ in a few values: the groups by Hydra, the values on a copy, as Hydra sets them.

    Args:
        loader: Hydra's.
        common: overrides of all configs, such as those of Hydra's own node.
    """

    def __init__(self, loader: ConfigLoader, common: Sequence[str] = ()) -> None:
        self.loader, self.common = loader, list(common)
        self.bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, lines: Sequence[str]) -> DictConfig:
        """Return the main config with some plain overrides, Hydra's own node included."""
        choices = tuple(line for line in lines if self.is_choice(line))
        if choices not in self.bases:
            self.bases[choices] = compose(self.loader, [*self.common, *choices])
        config = copy.deepcopy(self.bases[choices])
        ConfigLoaderImpl._apply_overrides_to_config([parsed(line) for line in lines if line not in choices], config)
        return config

    def is_choice(self, line: str) -> bool:
        """Tell whether an override chooses files, or says where they are: what Hydra alone can act on."""
        key = parsed(line).key_or_group
        return key == SEARCH_PATH or bool(self.loader.get_group_options(key))


@cache
def parsed(line: str) -> Override:
    """Return one override, parsed."""
    return OverridesParser.create().parse_override(line)


def compose(loader: ConfigLoader, lines: Sequence[str]) -> DictConfig:
    """Compose the main config with some plain overrides, Hydra's own node included."""
    return loader.load_configuration("config", list(lines), run_mode=RunMode.RUN, from_shell=False)


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain dicts, lists and values, without Hydra's own node."""
    keys = [str(key) for key in config if key != "hydra"]
    return OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)  # type: ignore[return-value]


def allowed_packages(lines: Sequence[str]) -> list[str]:
    """Return what `allow_targets` on the command line admits."""
    values = [parsed(line).value() for line in lines if parsed(line).key_or_group == "allow_targets"]
    last = values[-1] if values else []
    return list(map(str, last)) if isinstance(last, list) else []
