"""Records of runs: written without training, and read back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from runner.recording.recorder import Recorder


def start(directory: Path, resume_at: int | None = None, history: list[dict[str, float]] | None = None) -> Recorder:
    """Return the recorder of a run."""
    return Recorder(directory, hparams={"lr": 0.1}, group="g", resume_at=resume_at, history=history or [])


def epochs(recorder: Recorder, first: int, last: int, factor: float = 1.0) -> None:
    """Record some epochs: the losses of ten examples, and two numbers that tell the epoch and the factor."""
    for epoch in range(first, last + 1):
        recorder.record_histogram(epoch, "losses/train", factor * torch.arange(10.0))
        recorder.record_scalars(epoch, {"train/loss": factor / epoch, "validation/error": factor * epoch})


def table(directory: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv."""
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def values(directory: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return (step, value) of each tag, in the order of the event files and of the events in them."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted(directory.glob("*tfevents*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                content = getattr(value, value.WhichOneof("value"))
                found.setdefault(value.tag, []).append((event.step, content))
    return found
