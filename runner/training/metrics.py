"""What is measured of a model in training: means, losses and errors, proximal penalties, probes; the best epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from data import Dataset, Split
from losses import EagerForward, Forward
from runner.evaluation.evaluate import Evaluation, evaluate
from runner.evaluation.probes import Subject
from runner.training.build import Components
from runner.training.compatibility import value_of
from runner.training.seeds import stream_seed

AT_CHANCE = 0.95  # part of the error of a guess, from which on nothing was learned


class Means:
    """Means of named scalars over the steps of an epoch.

    A step only keeps its values, on their device: to add each of them up at once would take a twentieth of a small
    network's step. The sums and the counts are the state.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}  # not in the sums yet
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Keep a value, (), or (K,) of a stack of K models; it must not be changed in place from now on."""
        self.values.setdefault(name, []).append(value)

    def sum_up(self) -> None:
        """Add what was kept to the sums, value by value: the same bits, however often this is done."""
        for name, values in self.values.items():
            for value in torch.stack(values).cpu().double():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + len(values)
        self.values.clear()

    def compute(self) -> dict[str, Any]:
        """Return the means by name: numbers, or lists of K numbers."""
        self.sum_up()
        return {name: (total / self.counts[name]).tolist() for name, total in self.sums.items()}


def evaluations_of(components: Components, splits: Mapping[str, Split]) -> dict[str, Evaluation]:
    """Return the evaluation on each of some splits, by its name."""
    model, criterion, dataset = components.model, components.criterion, components.dataset
    fixed = dataset.classes, dataset.target_scale
    return {name: evaluate(model, criterion, split, *fixed) for name, split in splits.items()}


def numbers_of(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """Return losses and errors by tag."""
    return {tag: value for name, found in evaluations.items() for tag, value in found.metrics(name).items()}


def values_of_proximal_penalties(components: Components) -> dict[str, float]:
    """Return the values that the means over the steps do not hold, since they are no terms of the objective."""
    fixed = components.model, components.criterion, components.dataset
    proximal = [term for term in components.terms if term.is_proximal]
    return {f"train/penalty/{term.name}": value_of(term.penalty, *fixed).item() for term in proximal}


def probed(components: Components, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Run the probes, each with its own generator; return scalars and tensors (for histograms) by tag."""
    numbers, tensors = {}, {}
    for name, probe in components.probes.items():
        generator = torch.Generator(components.device).manual_seed(stream_seed(seed, "probe", name))
        components.model.eval()
        for key, value in probe(Subject(components.model, components.criterion, components.dataset, generator)).items():
            if isinstance(value, Tensor):
                tensors[f"probe/{name}/{key}"] = value
            else:
                numbers[f"probe/{name}/{key}"] = value
    return numbers, tensors


def gradient_ratios(components: Components, config: Mapping[str, Any], epoch: float) -> dict[str, float]:
    """Return how strongly each penalty pulls at the parameters w, compared with the data loss, by tag.

        ratio = ||grad_w (weight * mean penalty)|| / ||grad_w (loss.weight * mean loss)||

    On one batch of training examples, in evaluation mode, with the same examples and random directions at each call:
    numbers of different epochs can be compared, and training goes on with the same bits as without. Proximal penalties
    have no gradient. Without a data loss there is no ratio.

    Args:
        components: of the run.
        config: of the run.
        epoch: completed ones; they give the weight in force during a warmup.
    """
    terms = [term for term in components.terms if term.weight and not term.is_proximal]
    if not terms or not config["loss"]["weight"]:
        return {}
    train, device, model = components.dataset.train, components.device, components.model.eval()
    seed = stream_seed(config["seed"], "gradient_ratio")
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: config["batch_size"]]
    batch, penalties = train[chosen.to(device)], [term.penalty for term in terms]
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # a user's penalty may draw from torch's own
        forward = EagerForward(model, components.criterion, batch.inputs, batch.targets, penalties, generator)
        loss = _gradient_norm(config["loss"]["weight"] * forward.losses.mean(), forward)
        values = {term.name: term.weight_at(epoch) * term.penalty(forward).mean() for term in terms}
        norms = {name: _gradient_norm(value, forward) for name, value in values.items()}
    return {f"train/gradient_ratio/{name}": float(norm / loss) for name, norm in norms.items()}


def _gradient_norm(value: Tensor, forward: Forward) -> Tensor:
    if not value.requires_grad:
        return torch.zeros((), device=value.device)
    params = list(forward.params.values())
    gradients = torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True)
    return torch.nn.utils.get_total_norm(gradients)


def chance_error(dataset: Dataset) -> float:
    """Return the training error of always guessing the class that most training examples have."""
    return 1.0 - torch.bincount(dataset.train.targets).max().item() / len(dataset.train)


def warning_of_chance(components: Components, config: Mapping[str, Any], row: Mapping[str, float]) -> str | None:
    """Return a sentence if a trained classification is no better than a guess; None if it is, and for a regression.

    Args:
        components: of the run.
        config: of the run.
        row: numbers of the last epoch, by tag.
    """
    if "train/error" not in row:
        return None
    error, chance = row["train/error"], chance_error(components.dataset)
    if error < AT_CHANCE * chance or chance == 0:
        return None
    weights = [f"penalty.{term.name}.weight={term.weight:g}" for term in components.terms if term.weight]
    causes = [f"optimizer.lr={config['optimizer'].get('lr')} is too large or too small"]
    causes += [f"{' or '.join(weights)} is too large"] if weights else []
    return (
        f"the training error {error:.3g} is about that of guessing the most frequent class, {chance:.3g}: nothing was "
        f"learned; likely {', or '.join(causes)}"
    )


def monitor_of(dataset: Dataset) -> str:
    """Return the tag by which epochs are compared: the validation error, or loss, or that of the training split."""
    part = "train" if dataset.validation is None else "validation"
    return f"{part}/{'loss' if dataset.classes is None else 'error'}"


def best_of(history: Sequence[dict[str, float]], monitor: str) -> dict[str, float]:
    """Return losses and errors of the first row with the least finite value of the monitor.

    Rows without it are those of epochs that were not evaluated.
    """
    rows = [row for row in history if monitor in row]
    best = min(rows, key=lambda row: (not math.isfinite(row[monitor]), row[monitor]), default={})
    return {key: best[key] for key in best if key == "epoch" or key.endswith(("/loss", "/error")) or "/rmse/" in key}
