"""From a checked config to the components of a run; what does not fit is reported before anything is written."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from data import Augmentation, Dataset, prepare
from losses.criterion import Criterion
from models import freeze_batch_norm
from models.batch_norm import keep_in_evaluation
from runner.config.check import ConfigError
from runner.evaluation.penalties import PenaltyValue
from runner.evaluation.probes import Probe
from runner.training.compatibility import (
    check_augment,
    check_criterion,
    check_derivatives,
    check_last_batch,
    check_layers,
    check_metric,
    check_penalty,
    checked_schedule,
    value_of,
    warn_of_options,
)
from runner.training.instantiate import Problems, check_signatures, common_options, construct, own_options
from runner.training.schedule import Schedule
from runner.training.seeds import seed_torch, stream_seed
from runner.training.term import Term

Prepare = Callable[[nn.Module], None]


@dataclass
class Components:
    """All that the loop works with."""

    dataset: Dataset
    model: nn.Module
    criterion: Criterion
    terms: list[Term]
    probes: dict[str, Probe]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    augment: Augmentation
    device: torch.device
    channels_last: bool


def build(config: Mapping[str, Any], dataset: Dataset | None = None, prepare: Prepare | None = None) -> Components:
    """Build all components of a run, whose data may be at hand, and try each penalty on two examples.

    `prepare` gives a new model its weights before anything depends on them, as `init_from` wants it.

    Raises:
        ConfigError: with a sentence for everything that does not fit.
    """
    if config["allow_targets"]:
        find_own_packages()
    device = _choose_device(config["device"])
    be_deterministic(device)
    check_signatures(config)
    problems = Problems(config["allow_targets"])
    criterion, schedule, dataset = _build_first(config, dataset, device, problems)
    terms = _build_terms(config, dataset, problems)
    probes = _build_probes(config, dataset, problems)
    with problems.at("augment"):
        augment = construct(config["augment"]).fit(dataset)
    model = _prepared(config, dataset, device, prepare, problems)
    channels_last = _is_channels_last(config, dataset, terms)
    if channels_last:
        model, dataset = model.to(memory_format=torch.channels_last), dataset.in_channels_last()
    with problems.at("optimizer"):
        optimizer = build_optimizer(config, model, schedule)
    problems.raise_if_any()
    components = Components(
        dataset, model, criterion, terms, probes, optimizer, schedule, augment, device, channels_last
    )
    _check_together(config, components, problems)
    _freeze(config, components, problems)
    return _verified(config, components, problems)


def _build_first(
    config: Mapping[str, Any], dataset: Dataset | None, device: torch.device, problems: Problems
) -> tuple[Criterion, Schedule, Dataset]:
    """Return what depends on nothing, and all else on this."""
    with problems.at("loss"):
        criterion = construct(own_options(config["loss"], "loss"))
    with problems.at("scheduler"):
        schedule = checked_schedule(construct(config["scheduler"]), config["epochs"])
    with problems.at("data"):
        dataset = dataset or _build_dataset(config, device)
    problems.raise_if_any()
    return criterion, schedule, dataset


def _prepared(
    config: Mapping[str, Any], dataset: Dataset, device: torch.device, prepare: Prepare | None, problems: Problems
) -> nn.Module:
    with problems.at("model"):
        model = _build_model(config, dataset, device)
    problems.raise_if_any()
    with problems.at(""):
        if prepare:
            prepare(model)
        elif config["init_from"] is not None:
            raise ValueError("init_from must be read by who builds: runner.run.built does it")
    return model


def _freeze(config: Mapping[str, Any], components: Components, problems: Problems) -> None:
    if config["batch_norm"] == "frozen":
        with problems.at("batch_norm"):
            freeze_batch_norm(components.model, components.dataset.train.inputs)
        problems.raise_if_any()


def _verified(config: Mapping[str, Any], components: Components, problems: Problems) -> Components:
    for term in (term for term in components.terms if term.weight):
        with problems.at(f"penalty.{term.name}"):
            check_derivatives(term.penalty, components, config)
    problems.raise_if_any()
    return components


def _check_together(config: Mapping[str, Any], components: Components, problems: Problems) -> None:
    """Raise ConfigError with a sentence for each component that does not fit the others; try each penalty."""
    with problems.at("loss"):
        check_criterion(components.criterion, components.model, components.dataset)
    with problems.at("augment"):
        check_augment(components.augment, components.model, components.criterion, components.dataset)
    with problems.at(""):
        if (metric := config["objective_metric"]) is not None:
            check_metric(metric, components.dataset, components.probes, components.model, components.criterion)
    with problems.at(""):
        if config["batch_norm"] == "batch":
            check_last_batch(config, components.model, components.dataset)
    for term in components.terms:
        with problems.at(f"penalty.{term.name}"):
            check_penalty(term.penalty, components.model, components.dataset)
            if term.weight:
                warn_of_options(term.penalty, config, components.model, components.dataset, components.schedule)
    for name, probe in components.probes.items():
        if isinstance(probe, PenaltyValue):
            with problems.at(f"probe.{name}.penalty"):
                check_layers(probe.penalty, components.model)
                value_of(probe.penalty, components.model, components.criterion, components.dataset)
    problems.raise_if_any()
    for term in components.terms:
        with problems.at(f"penalty.{term.name}"):
            value_of(term.penalty, components.model, components.criterion, components.dataset)
    problems.raise_if_any()


def _build_terms(config: Mapping[str, Any], dataset: Dataset, problems: Problems) -> list[Term]:
    terms = []
    for name, node in sorted(config["penalty"].items()):
        with problems.at(f"penalty.{name}"):
            penalty = construct(own_options(node, "penalty"), dataset)
            options = common_options(node, "penalty")
            options.pop("weight_range", None)  # a sweep's
            terms.append(Term(name, penalty, **options))
    return terms


def _build_probes(config: Mapping[str, Any], dataset: Dataset, problems: Problems) -> dict[str, Probe]:
    probes = {}
    for name, node in config["probe"].items():
        with problems.at(f"probe.{name}"):
            probes[name] = construct(node, dataset)
            probes[name].check(dataset)
    return probes


def _build_dataset(config: Mapping[str, Any], device: torch.device) -> Dataset:
    source = construct(own_options(config["data"], "data"))
    try:
        return prepare(source.load(), **common_options(config["data"], "data"), device=device)
    except MemoryError as error:
        raise ValueError("the examples are too many for this machine: keep fewer of them in the file") from error


def _is_channels_last(config: Mapping[str, Any], dataset: Dataset, terms: Iterable[Term]) -> bool:
    """Tell whether images and convolutions are laid out channels last, which torch's LBFGS cannot take."""
    if len(dataset.shape) != 3 or config["optimizer"]["_target_"].endswith("LBFGS"):
        return False
    if config["channels_last"] is not None:
        return config["channels_last"]
    return not any(term.penalty.prefers_contiguous and term.weight for term in terms)


def _choose_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["device must be auto or cpu on this machine, got cuda: torch sees no CUDA device"])
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def be_deterministic(device: torch.device) -> None:
    """On CUDA, have torch take algorithms that give the same bits each time, and warn where it has none.

    cuBLAS reads its variable when it is first used, so before anything is computed.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False  # it chooses by the clock
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs, helps none


def find_own_packages() -> None:
    """Have Python find packages in the working directory, where a user's own one is."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _build_model(config: Mapping[str, Any], dataset: Dataset, device: torch.device) -> nn.Module:
    model = build_network(config, dataset.shape, dataset.outputs, device, dataset)
    _check_outputs(model, dataset)
    return model.train()


def build_network(
    config: Mapping[str, Any],
    input_shape: Sequence[int],
    outputs: int,
    device: torch.device,
    dataset: Dataset | None = None,
) -> nn.Module:
    """Build the network of a config for inputs (B, *input_shape), from a generator of its own.

    It is initialised if there is a data set, whose training inputs `init=lsuv` measures.
    """
    with torch.random.fork_rng(devices=[]):
        seed_torch(stream_seed(config["seed"], "init"), device)
        network = construct(config["model"], input_shape=tuple(input_shape), outputs=outputs)
        _settle(network, input_shape)
        if dataset is not None:
            construct(config["init"], dataset)(network)
    network.to(device)
    if config["precision"] == "bf16":
        _use_bfloat16(network, device)
    return network


def _settle(network: nn.Module, input_shape: Sequence[int]) -> None:
    """Have lazy layers draw their weights now, from the run's seed; parts in evaluation mode are their owner's wish."""
    owned = [module for module in network.modules() if not module.training]
    if any(isinstance(param, UninitializedParameter) for param in network.parameters()):
        with torch.no_grad():
            network.eval()(torch.zeros(2, *input_shape))
        network.train()
    for module in owned:
        keep_in_evaluation(module)


def _check_outputs(model: nn.Module, dataset: Dataset) -> None:
    """Raise ValueError unless the model gives outputs of the right shape for two examples, and leaves these alone."""
    two = dataset.train.inputs[:2].clone()
    try:
        with torch.no_grad():
            outputs = model.eval()(two)
    except Exception as error:  # whatever a user's own network raises
        shape, first = "x".join(map(str, dataset.shape)), (str(error).splitlines() or [""])[0]
        kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
        raise ValueError(f"it does not take {shape} inputs: {kind}{first}") from error
    wanted = (len(two), dataset.outputs)
    got = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    if got != wanted:
        raise ValueError(f"its outputs for {len(two)} examples are {got} instead of a tensor of shape {wanted}")
    if two._version or not torch.equal(two, dataset.train.inputs[:2]):  # the data would move on with each evaluation
        raise ValueError(
            "it must leave its inputs as they are, and changes them in place: "
            "write x = x / 2 for x /= 2, and leave out inplace=True before the first layer with weights"
        )


def _use_bfloat16(model: nn.Module, device: torch.device) -> None:
    forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
    model.forward = lambda inputs: forward(inputs).float()


def build_optimizer(config: Mapping[str, Any], model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Build the optimizer, with a parameter group for each layer that has options of its own."""
    layers = config["optimizer"]["groups"] or {}
    owned: dict[str, list[Tensor]] = {name: [] for name in ("", *layers)}
    for name, param in model.named_parameters():
        owner = max((layer for layer in layers if f"{name}.".startswith(f"{layer}.")), key=len, default="")
        owned[owner].append(param)
    for layer in layers:
        if not owned[layer]:
            known = ", ".join(name for name, module in model.named_modules() if name and list(module.parameters(False)))
            raise ValueError(f"groups must name layers with parameters, {known}, got {layer!r}")
    options = own_options(config["optimizer"], "optimizer")
    if schedule.initial is not None:
        options["lr"] = schedule.initial
    taken = set(options) - {"_target_"}
    for layer, own in layers.items():
        if not isinstance(own, dict) or not set(own) <= taken:
            raise ValueError(f"groups.{layer} must map options among {', '.join(sorted(taken))} to values, got {own}")
    groups = [{"params": params, **layers.get(layer, {})} for layer, params in owned.items() if params]
    return construct(options, params=groups)
