"""Which metrics a run can minimise, as far as its config tells; its data and its probes know the rest."""

import re
from collections.abc import Mapping
from typing import Any

from runner.config.text import near

CHOOSING = ("validation/", "train/", "best/validation/", "best/train/")  # what may choose a weight: never a test
MEASURED = [f"{part}/{kind}" for part in ("train", "validation", "test") for kind in ("loss", "error")]


def is_measured(metric: str) -> bool:
    """Tell whether a metric is measured on a split: its error, its loss, or the error of one output of a regression."""
    return bool(re.fullmatch(r"(best/)?(train|validation|test)/(loss|error|rmse/\d+)", metric))


def problems_of_metric(key: str, metric: str, config: Mapping[str, Any]) -> list[str]:
    """Return a sentence if no run of a config measures the metric that an option names.

    Args:
        key: the option.
        metric: its value.
        config: of the run.
    """
    terms = ["train/objective", *(f"train/penalty/{name}" for name in config["penalty"])]
    known = [*MEASURED, *(f"best/{name}" for name in MEASURED), *terms, "seconds", "epoch"]
    probes = tuple(f"probe/{name}/" for name in config["probe"])
    if metric in known or metric.startswith(probes) or is_measured(metric):
        return []
    return [f"{key} must be one of {near(metric, [*known, *(f'{probe}...' for probe in probes)])}, got {metric!r}"]


def problems_of_choosing(metric: str | None) -> list[str]:
    """Return a sentence if the trials of a sweep may not choose by a metric (null: by what validation measures)."""
    if metric is None or metric.startswith(CHOOSING):
        return []
    return [
        f"objective_metric must be of the validation or the training split with sweep.trials, got {metric}: test "
        "numbers, as those of most probes, choose nothing; type objective_metric=validation/loss, or leave it out"
    ]


def loss_beside(metric: str) -> str:
    """Return the loss of the same split, which tells equal errors apart."""
    return re.sub(r"/(error|loss|rmse/\d+)$", "/loss", metric)
