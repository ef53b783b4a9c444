"""What is measured of a model in training: losses and errors, proximal penalties, probes; and which epoch was best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data import Dataset
from runner.build import Parts, stream_seed
from runner.compatibility import value_of
from runner.evaluate import Evaluation, evaluate
from runner.probes import Subject


def evaluations_of(parts: Parts) -> dict[str, Evaluation]:
    """Return the evaluation on each part of the data that there is, by its name."""
    dataset = parts.dataset
    named = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        name: evaluate(parts.model, parts.criterion, part, dataset.classes)
        for name, part in named.items()
        if part is not None
    }


def values_of_proximal_penalties(parts: Parts) -> dict[str, float]:
    """Return the values that the means over the steps do not hold, since they are no terms of the objective."""
    proximal = {name: penalty for name, penalty in parts.penalties.items() if not penalty.in_objective}
    return {f"train/penalty/{name}": value_of(penalty, parts).item() for name, penalty in proximal.items()}


def probed(parts: Parts, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Ask the probes, each with a generator of its own; return their numbers, and what is to become a histogram."""
    numbers, tensors = {}, {}
    for name, probe in parts.probes.items():
        generator = torch.Generator(parts.device).manual_seed(stream_seed(seed, "probe", name))
        parts.model.eval()
        for key, value in probe(Subject(parts.model, parts.criterion, parts.dataset, generator)).items():
            if isinstance(value, Tensor):
                tensors[f"probe/{name}/{key}"] = value
            else:
                numbers[f"probe/{name}/{key}"] = value
    return numbers, tensors


def judge_of(dataset: Dataset) -> str:
    """Return the tag by which epochs are compared: the validation error, or loss, or that of the training part."""
    part = "train" if dataset.validation is None else "validation"
    return f"{part}/{'loss' if dataset.classes is None else 'error'}"


def best_of(history: Sequence[dict[str, float]], judge: str) -> dict[str, float]:
    """Return losses and errors of the first row with the least finite value of the judge."""
    best = min(history, key=lambda row: (not math.isfinite(row[judge]), row[judge]), default={})
    return {key: best[key] for key in best if key == "epoch" or key.endswith(("/loss", "/error"))}
