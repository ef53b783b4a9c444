"""From the options of a class to an object: signatures held against them first, all problems told at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from data import DataError, Dataset
from runner.config.allowlist import resolve
from runner.config.check import ConfigError
from runner.config.signature import problems_of_options

# Keys of a group that are the runner's own; all others go to the constructor.
COMMON = {
    "data": ("train_size", "validation_size", "normalize", "label_noise", "seed"),
    "loss": ("weight",),
    "optimizer": ("groups", "gradient", "clip"),
}
# What the runner hands to a constructor beside its options.
GIVEN = {"model": ("input_shape", "outputs"), "optimizer": ("params",)}


class Problems:
    """Collects the sentences of everything that does not fit, to tell them at once."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def collect(self, path: str, make: Callable[[], Any]) -> Any:
        """Return what `make` makes; keep the sentence if it raises, under the option's full path."""
        try:
            return make()
        except (ValueError, TypeError) as error:
            first, _, _ = str(error).partition(" ")
            path = "" if isinstance(error, DataError) else path  # its sentence names the file
            named = first.replace(".", "_").isidentifier() and " must " in str(error)
            separator = "." if named else ": "
            self.sentences.append(f"{path}{separator}{error}" if path else str(error))
            return None

    def collect_each(self, group: str, members: Mapping[str, Any], make: Callable[[Any], Any]) -> dict[str, Any]:
        """Return what `make` makes of each member of a group."""
        return {name: self.collect(f"{group}.{name}", partial(make, member)) for name, member in members.items()}

    def raise_if_any(self) -> None:
        if self.sentences:
            raise ConfigError(self.sentences)


def own_options(config: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the keys of a group that are its class's, with `_target_`; a common one too if the class takes it."""
    node = config[group]
    takes = inspect.signature(resolve(node["_target_"])).parameters
    return {key: value for key, value in node.items() if key not in COMMON.get(group, ()) or key in takes}


def common_options(config: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the keys of a group that are the runner's."""
    return {key: config[group][key] for key in COMMON[group]}


def check_signatures(config: Mapping[str, Any]) -> None:
    """Hold all options against the constructors that they are meant for.

    Raises:
        ConfigError: with a sentence for each that does not fit.
    """
    problems = Problems()
    for group in ("data", "model", "init", "loss", "optimizer", "scheduler"):
        node = problems.collect(group, partial(own_options, config, group))
        problems.sentences += problems_of_node(group, node, GIVEN.get(group, ())) if node else []
    for kind in ("penalty", "probe"):
        for name, node in config[kind].items():
            problems.sentences += problems_of_node(f"{kind}.{name}", node)
    problems.raise_if_any()


def problems_of_node(path: str, node: Mapping[str, Any], given: tuple[str, ...] = ()) -> list[str]:
    """Return what is wrong with the options of a class, and of the classes among them."""
    try:
        target = resolve(node["_target_"])
    except ValueError as error:
        return [f"{path}: {error}"]
    options = {key: value for key, value in node.items() if key != "_target_"}
    inner = {key: value for key, value in options.items() if isinstance(value, dict) and "_target_" in value}
    problems = problems_of_options(path, target, options, given)
    for key, value in inner.items():
        problems += problems_of_node(f"{path}.{key}", value)
    return problems


def construct(node: Mapping[str, Any], dataset: Dataset | None = None, **given: Any) -> Any:
    """Build the class that a node names, and those among its options; what has `fit` sees the training inputs.

    It is called as `fit(inputs, offset, scale)`, with the inputs (N, *I) as the network sees them and how they were
    normalised: inputs = (raw - offset) / scale.
    """
    options = {
        key: construct(value, dataset) if isinstance(value, dict) and "_target_" in value else value
        for key, value in node.items()
        if key != "_target_"
    }
    built = resolve(node["_target_"])(**given, **options)
    if dataset is not None and hasattr(built, "fit"):
        built.fit(dataset.train.inputs, dataset.offset, dataset.scale)
    return built
