"""From the options of a class to an object; before that, all options are checked against the signatures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from data import Dataset
from runner.config.allowlist import resolve
from runner.config.check import ConfigError
from runner.config.conf_files import NAMED, SINGLE
from runner.config.signature import parameters_of, problems_of_options
from runner.training.faults import is_lack_of_memory, place_of

# Keys of a group that are the runner's own; all others go to the constructor.
COMMON = {
    "data": ("train_size", "per_class", "validation_size", "normalize", "label_noise", "seed"),
    "loss": ("weight",),
    "optimizer": ("groups", "gradient", "clip"),
    "penalty": ("weight", "every", "warmup", "weight_range"),
}
# What the runner hands to a constructor beside its options.
GIVEN = {"model": ("input_shape", "outputs"), "optimizer": ("params",)}


class Problems:
    """Collects a sentence for everything that does not fit, to report all at once.

    Args:
        packages: of the user's own classes.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages, self.sentences = packages, list[str]()

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Keep the sentence of an error that is raised in this context, behind the option's path.

        A ValueError or TypeError of ours is a sentence; any error of a user's own class becomes one, with its place,
        unless it is a lack of memory, which is no mistake of the config.
        """
        try:
            yield
        except Exception as error:
            sentence, place = str(error), place_of(error, self.packages)
            is_ours = isinstance(error, ValueError | TypeError) and not place
            if is_lack_of_memory(error) or not (is_ours or self.packages):
                raise
            if not is_ours and not error.__cause__:
                sentence = f"{type(error).__name__}: {next(iter(sentence.splitlines()), '')}"
            self.sentences.append(f"{path}: {sentence}{place}" if path else sentence + place)

    def raise_if_any(self) -> None:
        """Raise ConfigError with all sentences so far, if there are any."""
        if self.sentences:
            raise ConfigError(self.sentences)


def own_options(node: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the keys of a node that are its class's, with `_target_`; one of the runner's if it takes that too."""
    takes = parameters_of(resolve(node["_target_"]))
    return {key: value for key, value in node.items() if key not in COMMON.get(group, ()) or key in takes}


def common_options(node: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the keys of a node that are the runner's."""
    return {key: node[key] for key in COMMON[group] if key in node}


def check_signatures(config: Mapping[str, Any]) -> None:
    """Check all options against the constructors that they are meant for.

    Raises:
        ConfigError: with a sentence for each that does not fit.
    """
    problems = Problems(config["allow_targets"])
    for group in SINGLE:
        with problems.at(group):
            _check_node(group, own_options(config[group], group), problems, GIVEN.get(group, ()))
    for group in NAMED:
        for name, member in config[group].items():
            with problems.at(f"{group}.{name}"):
                _check_node(f"{group}.{name}", own_options(member, group), problems)
    problems.raise_if_any()


def _check_node(path: str, node: Mapping[str, Any], problems: Problems, given: tuple[str, ...] = ()) -> None:
    options = {key: value for key, value in node.items() if key != "_target_"}
    with problems.at(path):
        problems.sentences += problems_of_options(path, resolve(node["_target_"]), options, given)
    for key, value in options.items():
        if isinstance(value, dict) and "_target_" in value:
            _check_node(f"{path}.{key}", value, problems)


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
