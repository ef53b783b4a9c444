"""Tangent Prop on images: what the seven tangents are, and the test error against the number of training digits."""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from data import Digits, Distortion, Tangents, prepare
from data.augment import SMOOTHING
from data.tangents import filters
from studies import style
from studies.study import Folders, Text, runs_of, studies_of
from studies.tables import interval, paired, spread, table

# The seven tangents

UNITS = {
    "translation_x": "px",
    "translation_y": "px",
    "scaling": "%",
    "rotation": "°",
    "axis_hyperbolic": "%",
    "diagonal_hyperbolic": "%",
    "thickness": "px",
}
FACTORS = (1, 2, 3)  # of the sizes that augment=distortion has by default
SHOWN = (1, 3)
EXAMPLES = 100


class Transformations:
    """The smoothed digits, their tangents, and the transformations that these are the tangents of.

    Args:
        count: how many test digits are looked at, the first ones.
    """

    def __init__(self, count: int) -> None:
        dataset = prepare(Digits().load(), validation_size=0, normalize="none")
        raw = dataset.test.inputs[:count]
        smooth, _ = filters(raw.shape[-1], SMOOTHING, raw)
        self.images = smooth @ raw @ smooth.T  # the tangents are derivatives of these
        self.tangents = dict(zip(UNITS, Tangents().fit(dataset.train.inputs)(raw), strict=True))
        self.distortion = Distortion().fit(dataset)

    def size(self, name: str, factor: float) -> str:
        amount = factor * self.distortion.amounts[self.distortion.names.index(name)]
        scale = {"%": 100.0, "°": 180 / np.pi, "px": 1.0}[UNITS[name]]
        return f"{amount * scale:g} {UNITS[name]}".replace(" °", "°")

    def both(self, name: str, factor: float) -> tuple[Tensor, Tensor]:
        amounts = torch.zeros(len(self.images), len(UNITS))
        index = self.distortion.names.index(name)
        amounts[:, index] = factor * self.distortion.amounts[index]
        moved, tangent = self.distortion.transformed(self.images, amounts), self.tangents[name]
        a = ((moved - self.images) * tangent).flatten(1).sum(1) / tangent.flatten(1).square().sum(1)
        return self.images + a.view(-1, 1, 1, 1) * tangent, moved


def pictures_numbers(folders: Folders) -> pd.DataFrame:
    """Return how far image + a * tangent is from the transformed image, in distances of that from the image."""
    found, rows = Transformations(EXAMPLES), []
    for name in UNITS:
        for factor in FACTORS:
            linear, moved = found.both(name, factor)
            errors = (linear - moved).flatten(1).norm(dim=1) / (moved - found.images).flatten(1).norm(dim=1)
            rows.append((name, found.size(name, factor), factor, errors.mean().item(), errors.std().item()))
    return pd.DataFrame(rows, columns=["transformation", "amount", "factor", "error", "sd"])


def pictures_text(numbers: pd.DataFrame) -> Text:
    rows = []
    for name, own in numbers.groupby("transformation", sort=False):
        first = own.loc[own["factor"] == 1, "amount"].item()
        rows.append((name, first, *(f"{row['error']:.2f} ({row['sd']:.2f})" for _, row in own.iterrows())))
    header = ["transformation", "amount", *(f"{factor:g} times" for factor in sorted(numbers["factor"].unique()))]
    means = numbers.groupby("factor")["error"].mean()
    return [
        "How far image + a * tangent is from the transformed image, as a fraction of the distance between the image "
        f"and the transformed image: mean (standard deviation) over {EXAMPLES} digits, for the amount and multiples of "
        "it. a is the one that comes nearest. The images are smoothed with the width of the tangents, .9 pixels, since "
        "the tangents are the derivatives of the smoothed image.",
        "",
        *table(header, rows),
        "",
        f"On average over the seven, the tangent misses {means[1]:.0%} of the change for the amount that "
        f"`augment=distortion` has at most, and {means[3]:.0%} for three times as much: what tangent prop asks for is "
        "right for small transformations. Less than about a pixel changes nothing of this, since between two pixels "
        "the transformed images are interpolated along a straight line.",
    ]


def pictures_picture(numbers: pd.DataFrame, folders: Folders) -> Figure:
    found, index = Transformations(EXAMPLES), 5
    figure, axes = style.figure(len(UNITS), 2 + 2 * len(SHOWN), height=1.3)
    for row, name in zip(axes, UNITS, strict=True):
        tangent = found.tangents[name][index, 0]
        most = tangent.abs().max()
        row[0].imshow(found.images[index, 0], cmap="gray_r", vmin=0, vmax=1)
        row[1].imshow(tangent, cmap="gray", vmin=-most, vmax=most)
        for place, factor in enumerate(SHOWN):
            for offset, image in enumerate(found.both(name, factor)):
                row[2 + 2 * place + offset].imshow(image[index, 0], cmap="gray_r", vmin=0, vmax=1)
            row[3 + 2 * place].set_xlabel(found.size(name, factor), fontsize=8, labelpad=2)
        row[0].set_ylabel(name.replace("_", "\n"), fontsize=8)
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
        each.grid(visible=False)
        each.spines[:].set_visible(False)
    titles = ("image", "tangent", *("image +\na * tangent", "transformed") * len(SHOWN))
    for each, title in zip(axes[0], titles, strict=True):
        each.set_title(title, fontsize=8)
    return figure


# Figure 5: few digits

ARMS = {
    "none": "no penalty",
    "two_tangents": "two translations",
    "seven_tangents": "seven tangents",
    "distorted_images": "distorted images",
}
WEIGHT, SCALE = "penalty.tangent_prop.weight", "augment.scale"
TWO = "penalty.tangent_prop.tangents.names: [translation_x, translation_y]"
TUNING = "tangents_digits_strength"
TRIALS = {
    "two_tangents": [f"{WEIGHT}: {weight}, {TWO}" for weight in (1, 3, 10, 30, 100)],
    "seven_tangents": [f"{WEIGHT}: {weight}" for weight in (1, 3, 10, 30, 100)],
    "distorted_images": [f"penalty: none, augment: distortion, {SCALE}: {scale}" for scale in (0.5, 1, 2, 3, 4)],
}


def digits_numbers(folders: Folders) -> pd.DataFrame:
    tables = []
    for sweep, folder in folders.items():
        runs = runs_of(folder, "data.per_class", WEIGHT, SCALE, "validation/error", "test/error")
        runs = runs.assign(strength=runs[WEIGHT].fillna(runs[SCALE]), arm=runs["arm"].str.partition("-")[0])
        tables.append(runs.assign(stage="tuning" if sweep == TUNING else "comparison"))
    return pd.concat(tables).drop(columns=[WEIGHT, SCALE]).rename(columns={"data.per_class": "per_class"})


def digits_text(numbers: pd.DataFrame) -> Text:
    tuning, runs = (numbers[numbers["stage"] == stage] for stage in ("tuning", "comparison"))
    errors, differences = [], []
    for size, own in runs.groupby("per_class"):
        arm = {name: own["arm"] == name for name in ARMS}
        errors.append((str(10 * size), *(spread(own.loc[mask, "test/error"]) for mask in arm.values())))
        pairs = (("two_tangents", "none"), ("seven_tangents", "none"), ("seven_tangents", "distorted_images"))
        found = [interval(paired(own, "test/error", arm[ours], arm[other])) for ours, other in pairs]
        differences.append((str(10 * size), *found))
    header = ["digits", "two translations - none", "seven - none", "seven - distorted images"]
    return [
        *_about_strengths(tuning, runs),
        "",
        "Test error on 10,000 digits, mean (sd) of five seeds:",
        "",
        *table(["digits", *ARMS.values()], errors),
        "",
        "Differences of the test error, paired by seed, with 95 % intervals. The seeds vary initialisation and order; "
        "the digits are the same ones, the first of each class. Each interval is of one difference alone.",
        "",
        *table(header, differences),
        "",
        *_why(tuning),
    ]


def _about_strengths(tuning: pd.DataFrame, runs: pd.DataFrame) -> Text:
    rows = []
    for arm in TRIALS:
        means = tuning[tuning["arm"] == arm].groupby("strength")["validation/error"].mean()
        used = runs.loc[runs["arm"] == arm, "strength"].iloc[0]
        tried = ", ".join(f"{strength:g}: {value:.4f}" for strength, value in means.items())
        rows.append((ARMS[arm], "scale" if arm == "distorted_images" else "weight", tried, f"{used:g}"))
    size = 10 * tuning["per_class"].iloc[0]
    return [
        f"Strengths: of those tried, the one with the smallest error on 5,000 validation digits with {size} training "
        "digits (mean of two seeds of their own), used for all sizes, where others may be better. The scale is a "
        "factor of the default sizes of `augment=distortion`.",
        "",
        *table(["arm", "strength", "validation error", "chosen"], rows),
    ]


def _why(tuning: pd.DataFrame) -> Text:
    errors = tuning.groupby(["arm", "strength"])["validation/error"].mean()
    images, tangents = errors["distorted_images"], errors["seven_tangents"].min()
    best = f"{images.idxmin():g} times as large {images.min():.4f}"
    return [
        f"The size counts: with distortions of the default size the validation error is {images[1]:.4f}, "
        f"with seven tangents {tangents:.4f}, and with distortions {best} (means of two seeds). One reading: a tangent "
        "tells what small changes do to the image, and nothing of large ones.",
    ]


def digits_picture(numbers: pd.DataFrame, folders: Folders) -> Figure:
    figure, ((axes,),) = style.figure(height=4.2)
    runs = numbers[numbers["stage"] == "comparison"].assign(digits=lambda rows: 10 * rows["per_class"])
    for index, (arm, label) in enumerate(ARMS.items()):
        style.band(axes, runs[runs["arm"] == arm], "digits", "test/error", label, index)
    sizes = sorted(runs["digits"].unique())
    axes.set(xscale="log", yscale="log", xlabel="training digits", ylabel="test error (fraction of 10,000 digits)")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ticks = (0.02, 0.05, 0.1, 0.2, 0.5)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False, handlelength=3.5)
    return figure


STUDIES = studies_of(
    __file__,
    tangents_pictures=(pictures_numbers, pictures_text, {"": pictures_picture}),
    tangents_digits=(digits_numbers, digits_text, {"": digits_picture}),
)
