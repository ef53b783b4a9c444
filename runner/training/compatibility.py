"""Do the components of a run fit together? Reported before training starts, and before anything is written."""

import copy
import hashlib
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data import Augmentation, Dataset
from losses import EagerForward, Penalty, verify
from losses.criterion import Criterion
from runner.config.objective import is_measured
from runner.config.text import near
from runner.evaluation.evaluate import MOST_OUTPUTS
from runner.evaluation.probes import Probe, Subject
from runner.training.schedule import Schedule

EXAMPLES = 4  # on which derivatives are looked at
VERIFIED: str | None = None  # a folder of the sweep's, in its jobs: a file for each kind of penalty and model looked at


def checked_schedule(schedule: Schedule, epochs: int) -> Schedule:
    """Return a schedule; raise ValueError if its factor at the start, or its first learning rate, is no number."""
    for name, value in {"initial": schedule.initial or 1, "factor": schedule(0, epochs, 0)}.items():
        if not isinstance(value, int | float):
            raise ValueError(f"its {name} must be a number, got {value!r}")
    return schedule


def check_criterion(criterion: Criterion, model: nn.Module, dataset: Dataset) -> None:
    """Raise ValueError for a criterion that is not meant for these targets or these outputs, or gives other shapes."""
    targets, name = getattr(criterion, "targets", None), type(criterion).__name__
    if targets == "values" and dataset.classes is not None:
        raise ValueError(
            f"{name} takes real values as targets and the data has class labels: choose loss=cross_entropy, "
            "or loss=mse_one_hot for squared errors"
        )
    if targets == "classes" and dataset.classes is None:
        raise ValueError(
            f"{name} takes class labels and the data has real values as targets: choose loss=mse for a regression; "
            "for classes store whole numbers under the name labels, such as train_labels = targets.astype(np.int64), "
            "or targets.argmax(1) if they are one-hot"
        )
    outputs = outputs_of_two(model, dataset)
    if getattr(criterion, "wants_log_probabilities", False) and not are_log_probabilities(outputs):
        raise ValueError(
            f"{name} takes log-probabilities: add model.log_softmax=true, or end a model of your own in log_softmax"
        )
    two = dataset.train[:2]
    losses = criterion(outputs, two.targets)
    if losses.shape != (len(two),):
        raise ValueError(
            f"its value for {len(two)} examples is of shape {tuple(losses.shape)}: return the loss of each example, "
            f"({len(two)},)"
        )


@torch.no_grad()
def outputs_of_two(model: nn.Module, dataset: Dataset) -> Tensor:
    """Return the model's outputs for two training examples."""
    model.eval()  # not to touch the statistics of batch norm
    outputs = model(dataset.train.inputs[:2])
    model.train()
    return outputs


def are_log_probabilities(outputs: Tensor) -> bool:
    """Tell whether outputs are logarithms of probabilities, which sum to 1."""
    return bool((outputs.exp().sum(1) - 1).abs().max() < 0.01)


def check_augment(augment: Augmentation, model: nn.Module, criterion: Criterion, dataset: Dataset) -> None:
    """Raise ValueError if an augmentation changes the shape of the inputs, tried on two examples."""
    two = dataset.train[:2]
    changed = augment(two, model, criterion, torch.Generator(two.inputs.device).manual_seed(0))
    if changed.shape != two.inputs.shape:
        shapes = f"{tuple(two.inputs.shape)} into {tuple(changed.shape)}"
        raise ValueError(f"it must leave the shape of the inputs as it is, and turned {shapes}")


def check_metric(
    metric: str, dataset: Dataset, probes: Mapping[str, Probe], model: nn.Module, criterion: Criterion
) -> None:
    """Raise ValueError if no such number is measured as is to be minimised; a probe is asked for its numbers."""
    splits = ("train", "test") if dataset.validation is None else ("train", "validation", "test")
    outputs = range(dataset.outputs if dataset.outputs <= MOST_OUTPUTS else 0)
    kinds = ("loss", "error") if dataset.classes else ("loss", *(f"rmse/{output}" for output in outputs))
    known, measured = [f"{part}/{kind}" for part in splits for kind in kinds], metric.removeprefix("best/")
    if metric.startswith("probe/"):
        name = metric.split("/")[1]
        known = [f"probe/{name}/{number}" for number in numbers_of_probe(probes[name], dataset, model, criterion)]
    elif not is_measured(metric):  # such as seconds, which every run has
        return
    if measured not in known:
        raise ValueError(f"objective_metric must be one of {near(metric, known)}, got {metric!r}")


def numbers_of_probe(probe: Probe, dataset: Dataset, model: nn.Module, criterion: Criterion) -> list[str]:
    """Return the names of a probe's numbers, asked of the untrained model and two examples."""
    small = copy.copy(probe)
    small.examples = 2
    generator = torch.Generator(dataset.test.inputs.device).manual_seed(0)
    model.eval()
    with torch.random.fork_rng():  # a user's probe may draw from torch's own
        found = small(Subject(model, criterion, dataset, generator))
    model.train()
    return [name for name, value in found.items() if not isinstance(value, Tensor)]


def check_penalty(penalty: Penalty, model: nn.Module, dataset: Dataset) -> None:
    """Raise ValueError for layers that are not there, or for slopes in other units."""
    check_layers(penalty, model)
    if dataset.target_scale.dim() and getattr(getattr(penalty, "tangents", None), "derivatives", None):
        raise ValueError(
            "tangents.derivatives are slopes in the data's units, and the targets are scaled: add data.normalize=none"
        )


def check_last_batch(config: Mapping[str, Any], model: nn.Module, dataset: Dataset) -> None:
    """Raise ValueError if an epoch has a mini-batch of one example and batch norm cannot take it, tried on a copy."""
    count, size = len(dataset.train), config["batch_size"]
    if (count % size or size) != 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    one = dataset.train.inputs[:1]
    try:
        with torch.random.fork_rng([one.device] if one.is_cuda else []), torch.no_grad():
            copy.deepcopy(model).train()(one)
    except ValueError:
        near = [n for n in sorted(range(2, count + 1), key=lambda n: abs(n - size)) if count % n != 1][:2]
        fix = f"choose batch_size={' or '.join(map(str, near))}" if near else "add batch_norm=frozen"
        raise ValueError(
            f"batch_size={size} leaves a mini-batch with one of the {count} training examples, and batch norm needs "
            f"two: {fix}"
        ) from None


def check_layers(penalty: Penalty, model: nn.Module) -> None:
    """Raise ValueError for layers that the model does not have."""
    names = [name for name, _ in model.named_modules() if name]
    missing = [layer for layer in penalty.layers if layer not in ("inputs", *names)]
    if missing:
        key, others = ("of", "outputs") if getattr(penalty, "of", None) in missing else ("layers", "inputs")
        raise ValueError(f"{key} must be among {others}, {', '.join(names)}, got {', '.join(missing)}")


def warn_of_options(
    penalty: Penalty, config: Mapping[str, Any], model: nn.Module, dataset: Dataset, schedule: Schedule
) -> None:
    """Warn where a penalty trains, but other options make of it something else than its user may expect."""
    name = type(penalty).__name__
    piecewise_linear = getattr(model, "piecewise_linear", False)
    batches = 1 if config["optimizer"]["gradient"] == "full" else -(-len(dataset.train) // config["batch_size"])
    falling = schedule(config["epochs"] - 1, config["epochs"], config["epochs"] * batches - 1) < 1
    moving = config["optimizer"].get("momentum") or not config["optimizer"]["_target_"].endswith(".SGD")
    if not penalty.in_objective and moving:
        warn(f"{name}: a proximal step is exact for optimizer=sgd; with this optimizer it is a heuristic")
    if not penalty.in_objective and falling and not getattr(penalty, "scale_by_lr", True):
        warn(
            f"{name}: the learning rate falls and the threshold does not, so that the penalty grows against the loss: "
            "choose scale_by_lr=true and divide the threshold by optimizer.lr, or choose scheduler=constant"
        )
    if penalty.wants_smooth and dataset.classes is None and piecewise_linear:
        warn(f"{name}: a piecewise linear network cannot bend between the points: choose model.activation=tanh")


def check_derivatives(penalty: Penalty, components: Any, config: Mapping[str, Any]) -> None:
    """Raise ValueError if a penalty's derivatives on this model are not right; once a sweep for what is of one kind.

    Found on a few training examples, in training mode. Jobs of a sweep find in `VERIFIED` what others have looked at.
    """
    dataset = components.dataset
    kind = [config["model"], config["loss"]["_target_"], type(penalty).__qualname__, _not_numbers(vars(penalty))]
    kind += [dataset.shape, dataset.outputs, config["batch_norm"], config["precision"]]
    marker = VERIFIED and Path(VERIFIED, hashlib.sha256(repr(kind).encode()).hexdigest())
    if not (marker and marker.exists()):
        few = dataset.train[:EXAMPLES]
        verify(components.model, components.criterion, few.inputs, few.targets, [penalty])
        if marker:
            marker.touch()


def _not_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that choose what is computed: no coefficients, nothing that was computed."""
    return {key: value for key, value in options.items() if isinstance(value, str | tuple | bool)}


def warn(sentence: str) -> None:
    """Warn the user; `run` collects the warnings and prints them as lines."""
    warnings.warn(sentence, stacklevel=3)


def value_of(penalty: Penalty, model: nn.Module, criterion: Criterion, dataset: Dataset) -> Tensor:
    """Return a penalty's value on two training examples, with random directions of its own.

    Before training it shows whether the penalty fits; later it is the value of a penalty on the weights alone.

    Raises:
        ValueError: if it is neither a value of each example, (B,), nor a scalar, or if the model lacks a derivative.
    """
    two = dataset.train[:2]
    generator = torch.Generator(two.inputs.device).manual_seed(0)
    model.eval()  # not to touch the statistics of batch norm
    try:
        forward = EagerForward(model, criterion, two.inputs, two.targets, [penalty], generator)
        value = penalty(forward)
        params = list(forward.params.values())
        if penalty.in_objective and value.requires_grad and params:
            torch.autograd.grad(value.sum(), params, allow_unused=True)
    except RuntimeError as error:
        if _innermost_module(error) == type(penalty).__module__:  # its own mistake, such as shapes that do not fit
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"torch cannot differentiate this model as the penalty needs it: {reason}") from error
    finally:
        model.train()
    if value.shape not in ((), (len(two),)):
        raise ValueError(
            f"its value for {len(two)} examples is of shape {tuple(value.shape)}: return one number for each example, "
            f"({len(two)},), or one for all, ()"
        )
    return value.detach().mean()


def _innermost_module(error: Exception) -> str:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals["__name__"]
