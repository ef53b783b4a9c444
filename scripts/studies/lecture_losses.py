"""Lecture 5.1: what cross-entropy and the squared error ask of the outputs, and how networks train with them."""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from losses import CrossEntropy, MSEOneHot
from studies import style
from studies.study import Folders, Text, epochs_of, studies_of
from studies.tables import interval, paired, spread, table

LOGITS = np.round(np.arange(-4, 4.01, 0.2), 1)
CRITERIA = {"cross_entropy": CrossEntropy(), "mse_one_hot": MSEOneHot()}
SHOWN = ((0, 0), (1, 0), (2, 0), (4, 0), (4, -4), (0.4, 0.6), (-4, 4))  # logits of the right and of the wrong class


def surfaces(folders: Folders) -> pd.DataFrame:
    right, wrong = (grid.flatten() for grid in np.meshgrid(LOGITS, LOGITS, indexing="ij"))
    outputs = torch.from_numpy(np.stack([right, wrong], 1))
    targets = torch.zeros(len(outputs), dtype=torch.long)
    values = {name: criterion(outputs, targets).numpy() for name, criterion in CRITERIA.items()}
    return pd.DataFrame({"right": right, "wrong": wrong, **values})


def surfaces_text(numbers: pd.DataFrame) -> Text:
    at = numbers.set_index(["right", "wrong"])
    rows = [
        (
            f"({right:g}, {wrong:g})",
            _class_of(right, wrong),
            *(f"{at.loc[(right, wrong), name]:.4f}" for name in CRITERIA),
        )
        for right, wrong in SHOWN
    ]
    uniform, valid, mistaken = (at.loc[place] for place in ((0, 0), (4, -4), (0.4, 0.6)))
    correct = numbers[numbers["right"] > numbers["wrong"]]
    worse = {name: (correct[name] > uniform[name]).mean() for name in CRITERIA}
    return [
        *table(["logits (right, wrong)", "classified", *CRITERIA], rows),
        "",
        f"MSE penalises valid outputs: (4, -4) is right by a margin of 8, and its MSE is {valid['mse_one_hot']:.4g}, "
        f"{valid['mse_one_hot'] / uniform['mse_one_hot']:.0f} times that of uniform outputs and "
        f"{valid['mse_one_hot'] / mistaken['mse_one_hot']:.0f} times that of (0.4, 0.6), which is wrong. Its "
        f"cross-entropy is {valid['cross_entropy']:.4f}. Of the outputs of this grid that classify right, "
        f"{worse['mse_one_hot']:.0%} have a larger MSE than uniform outputs, and {worse['cross_entropy']:.0%} a larger "
        f"cross-entropy. The cross-entropy of uniform outputs is log C, here {uniform['cross_entropy']:.4f} = log 2.",
    ]


def _class_of(right: float, wrong: float) -> str:
    return "undecided" if right == wrong else "right" if right > wrong else "wrong"


def surfaces_picture(numbers: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2, height=3.8, sharey=True)
    levels = {"cross_entropy": (0.01, 0.1, 0.3, 0.693, 1.5, 3, 5, 7), "mse_one_hot": (0.05, 0.2, 0.5, 1, 2, 4, 8, 16)}
    for each, name in zip(axes, CRITERIA, strict=True):
        values = numbers.pivot(index="wrong", columns="right", values=name)
        grid = (values.columns, values.index, values.to_numpy())
        each.contourf(*grid, levels=[0, *levels[name], 100], cmap="Greys", norm="symlog", vmin=0, vmax=60, alpha=0.6)
        lines = each.contour(*grid, levels=levels[name], colors="black", linewidths=0.8)
        each.clabel(lines, [level for level in levels[name] if level != 0.693], fontsize=7, fmt="%g")
        each.plot([-4, 4], [-4, 4], color=style.COLORS[1], linestyle="--", linewidth=1.4)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        each.text(1.75, -3.7, "classified right", fontsize=8, bbox=box)
        each.text(-2.4, 2.6, "classified wrong", fontsize=8, bbox=box)
        each.set(xlabel="logit of the right class", title=name, aspect="equal")
    axes[0].set_ylabel("logit of the wrong class")
    axes[1].plot(1, 0, "*", color="black", markersize=7)
    return figure


SETTINGS = {
    ("cross_entropy", 0.1): "cross-entropy, lr 0.1",
    ("mse_one_hot", 0.1): "MSE, lr 0.1",
    ("mse_one_hot", 0.5): "MSE, lr 0.5",
}


def losses(folders: Folders) -> pd.DataFrame:
    columns = ("loss", "optimizer.lr", "train/error", "test/error")
    return pd.concat([epochs_of(folder, *columns) for folder in folders.values()])


def losses_text(epochs: pd.DataFrame) -> Text:
    last = epochs["epoch"].max()
    shown = sorted({1, 2, 5, last} & set(epochs["epoch"]))
    pairs = zip(epochs["loss"], epochs["optimizer.lr"], strict=True)
    epochs = epochs.assign(setting=[SETTINGS[pair] for pair in pairs])
    rows = []
    for name in SETTINGS.values():
        own = epochs[epochs["setting"] == name]
        rows.append((name, *(spread(own.loc[own["epoch"] == at, "test/error"]) for at in shown)))
    final, (first, *others) = epochs[epochs["epoch"] == last], list(SETTINGS.values())
    train, differences = final.groupby("setting")["train/error"].mean(), []
    for name in others:
        found = interval(paired(final, "test/error", final["setting"] == name, final["setting"] == first))
        differences.append(f"{name}: {found}")
    return [
        *table(["test error, mean (sd)", *(f"epoch {at}" for at in shown)], rows),
        "",
        f"Difference to {first} after {last} epochs, paired by seed, with its 95 % interval: {'; '.join(differences)}. "
        "MSE is a mean over the 10 outputs: its gradient by an output is 2/10 of the error, where that of "
        "cross-entropy is the error of the probability; hence 5 times the learning rate. Training errors then: "
        f"{', '.join(f'{train[name]:.4f} ({name})' for name in SETTINGS.values())}. So most of the difference at the "
        "same learning rate is one of scale. Neither learning rate was tuned.",
    ]


def losses_picture(epochs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2, sharey=True)
    for each, metric in zip(axes, ("train/error", "test/error"), strict=True):
        for index, ((loss, lr), label) in enumerate(SETTINGS.items()):
            own = epochs[(epochs["loss"] == loss) & (epochs["optimizer.lr"] == lr) & (epochs["epoch"] > 0)]
            style.band(each, own, "epoch", metric, label, index)
        each.set(xlabel="epoch", title=metric)
        style.log_errors(each)
    axes[0].set_ylabel("error (fraction of digits)")
    style.legend_below(figure, axes[0])
    return figure


STUDIES = studies_of(
    __file__,
    lecture_surfaces=(surfaces, surfaces_text, {"": surfaces_picture}),
    lecture_losses=(losses, losses_text, {"": losses_picture}),
)
