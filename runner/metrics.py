"""What is measured of a model in training: losses and errors, proximal penalties, probes; and which epoch was best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data import Dataset
from runner.build import Components
from runner.compatibility import value_of
from runner.evaluation.evaluate import Evaluation, evaluate
from runner.evaluation.probes import Subject
from runner.seeds import stream_seed


def evaluations_of(components: Components) -> dict[str, Evaluation]:
    """Return the evaluation on each split of the data, by its name."""
    dataset = components.dataset
    named = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        name: evaluate(components.model, components.criterion, part, dataset.classes)
        for name, part in named.items()
        if part is not None
    }


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


def monitor_of(dataset: Dataset) -> str:
    """Return the tag by which epochs are compared: the validation error, or loss, or that of the training split."""
    part = "train" if dataset.validation is None else "validation"
    return f"{part}/{'loss' if dataset.classes is None else 'error'}"


def best_of(history: Sequence[dict[str, float]], monitor: str) -> dict[str, float]:
    """Return losses and errors of the first row with the least finite value of the monitor."""
    best = min(history, key=lambda row: (not math.isfinite(row[monitor]), row[monitor]), default={})
    return {key: best[key] for key in best if key == "epoch" or key.endswith(("/loss", "/error"))}
