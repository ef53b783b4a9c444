"""The Jacobian penalty under noise and attacks, and decision regions in the plane through three images."""

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import data
from runner.results import load_model
from studies import style
from studies.jacobian import KEY, NORM
from studies.study import Folders, Text, runs_of, studies_of
from studies.tables import interval, paired, spread, table

NOISE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
PGD = (0.03, 0.06, 0.1, 0.15)
CURVES = {"noise": NOISE, "pgd": PGD}
IMAGES = (0, 1, 2)  # of the test set: a 7, a 2 and a 1
GRID = 101  # points on each side of the slice
BEYOND = 7.0  # what the slice shows beyond the images, in units of a pixel's range


def plane(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return two orthonormal directions (2, D), the three images' places (3, 2) in them, and the first image (D,)."""
    first, *others = images.flatten(1).double()
    directions = torch.linalg.qr(torch.stack([other - first for other in others]).T).Q.T
    return directions, (images.flatten(1).double() - first) @ directions.T, first


def slice_of(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the points of the plane through three images of bytes, in units of a pixel's range.

    Returns:
        coordinates along both axes (GRID,) each, the raw points (GRID * GRID, *I), and the places of the images (3, 2).
    """
    directions, places, first = plane(images / 255)
    low, high = places.amin(0) - BEYOND, places.amax(0) + BEYOND
    x, y = (torch.linspace(float(low[i]), float(high[i]), GRID).double() for i in (0, 1))
    points = first + torch.cartesian_prod(x, y) @ directions
    return x, y, 255 * points.view(-1, *images.shape[1:]), places


@torch.no_grad()
def regions(path: str, points: Tensor) -> Tensor:
    """Return the predicted class at each point of a slice, (GRID, GRID), the first index along x."""
    return load_model(path)(points).argmax(1).view(GRID, GRID)


def distances(classes: Tensor, x: Tensor, y: Tensor, places: Tensor) -> list[float]:
    """Return how far each image is from the nearest point of the slice with another class than its nearest one."""
    found = []
    for place in places:
        away = torch.hypot(*(torch.cartesian_prod(x, y) - place).T).view(GRID, GRID)
        own = classes.flatten()[away.argmin()]
        found.append(float(away[classes != own].min()))
    return found


def three_images(runs: pd.DataFrame) -> Tensor:
    return data.MNIST(runs["data.root"].iloc[0]).load().test.inputs[list(IMAGES)]


def robust_numbers(folders: Folders) -> pd.DataFrame:
    columns = [f"probe/{kind}/{size:g}" for kind, sizes in CURVES.items() for size in sizes]
    runs = runs_of(folders["jacobian_robust"], KEY, "test/error", NORM, *columns, "path", "data.root")
    x, y, points, places = slice_of(three_images(runs))
    found = [distances(regions(path, points), x, y, places) for path in runs["path"]]
    names = [f"slice/{index}" for index in IMAGES]
    return runs.assign(**dict(zip(names, np.transpose(found), strict=True))).drop(columns=["path", "data.root"])


def robust_text(runs: pd.DataFrame) -> Text:
    runs = runs.assign(slice=runs[[f"slice/{index}" for index in IMAGES]].mean(axis=1))
    shown = {
        "error": "test/error",
        "\\|\\|J\\|\\|": NORM,
        **{f"noise {size:g}": f"probe/noise/{size:g}" for size in NOISE[1:4]},
        **{f"PGD {size:g}": f"probe/pgd/{size:g}" for size in PGD[:3:2]},
        "distance in the slice": "slice",
    }
    rows = []
    for weight, own in runs.groupby(KEY):
        rows.append((f"{weight:g}", *(spread(own[metric]) for metric in shown.values())))
        if weight:
            found = [paired(runs, metric, runs[KEY] == weight, runs[KEY] == 0) for metric in shown.values()]
            rows.append((f"{weight:g} minus 0", *(interval(each) for each in found)))
    return [*table(["weight", *shown], rows), "", *robust_findings(runs)]


def robust_findings(runs: pd.DataFrame) -> Text:
    """Return in words at which sizes each weight helps, and at which it does not."""
    sentences = []
    for weight in sorted(runs[KEY].unique())[1:]:
        for kind, name in (("noise", "noise"), ("pgd", "PGD")):
            found = {
                size: paired(runs, f"probe/{kind}/{size:g}", runs[KEY] == weight, runs[KEY] == 0)
                for size in CURVES[kind]
            }
            less = ", ".join(f"{size:g}" for size, each in found.items() if each.high < 0) or "no size"
            more = ", ".join(f"{size:g}" for size, each in found.items() if each.low > 0) or "no size"
            sentences.append(f"Weight {weight:g} under {name}: smaller errors at {less}, larger ones at {more}.")
    return [
        "Compared with weight 0, paired by seed, by the 95 % intervals (not corrected for their number). "
        + " ".join(sentences)
        + " The distance is that of an image to the nearest other region within the plane through the three images, "
        "the mean of the three, in units of a pixel's range; the error is that on all 10,000 test digits."
    ]


def robust_picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    figure, (axes,) = style.figure(1, 2)
    for each, (kind, sizes) in zip(axes, CURVES.items(), strict=True):
        for index, (weight, own) in enumerate(runs.groupby(KEY)):
            tables = [pd.DataFrame({"size": size, "error": own[f"probe/{kind}/{size:g}"]}) for size in sizes]
            style.band(each, pd.concat(tables), "size", "error", f"weight {weight:g}", index)
        each.set_ylim(bottom=0)
    axes[0].set(xlabel="deviation of the noise (fraction of a pixel's range)", ylabel="error on 500 test digits")
    axes[1].set(xlabel="size of PGD (fraction of a pixel's range)", ylabel="error on 500 test digits")
    style.legend_below(figure, axes[0])
    return figure


def robust_slice(runs: pd.DataFrame, folders: Folders) -> Figure:
    """Draw the decision regions of two networks with seed 0 in the same plane."""
    found = runs_of(folders["jacobian_robust"], KEY, "path", "data.root").query("seed == 0")
    images = three_images(found)
    x, y, points, places = slice_of(images)
    figure, (axes,) = style.figure(1, 2, height=4.0, sharey=True)
    for each, (_, run) in zip(axes, found.iloc[[0, -1]].iterrows(), strict=True):
        classes = regions(run["path"], points)
        draw_regions(each, classes, x, y)
        for place, distance in zip(places, distances(classes, x, y, places), strict=True):
            mark_image(each, place, distance)
        each.set(title=f"weight {run[KEY]:g}", xlabel="units of a pixel's range", aspect="equal")
        each.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes[0].set_ylabel("units of a pixel's range")
    return figure


def draw_regions(axes: Axes, classes: Tensor, x: Tensor, y: Tensor) -> None:
    """Draw the regions in pale colours, with lines between them and the class in each of the large ones."""
    edges = [float(value) for value in (x[0], x[-1], y[0], y[-1])]
    axes.imshow(classes.T, extent=edges, origin="lower", cmap="tab10", vmin=-0.5, vmax=9.5, alpha=0.3, aspect="auto")
    for label in classes.unique().tolist():
        inside = (classes == label).double()
        axes.contour(x, y, inside.T, levels=[0.5], colors="black", linewidths=0.8)
        if inside.mean() > 0.01:
            rows, columns = (classes == label).nonzero().T
            middle = (rows - rows.double().mean()).abs() + (columns - columns.double().mean()).abs()
            nearest = middle.argmin()
            axes.text(float(x[rows[nearest]]), float(y[columns[nearest]]), label, ha="center", va="center", fontsize=11)


def mark_image(axes: Axes, place: Tensor, distance: float) -> None:
    axes.plot(*place, "k.", markersize=6)
    turn = np.linspace(0, 2 * np.pi, 100)
    axes.plot(place[0] + distance * np.cos(turn), place[1] + distance * np.sin(turn), "k--", linewidth=0.9)
    axes.annotate(f"{distance:.1f}", tuple(place), (4, 4), textcoords="offset points", fontsize=8)


STUDIES = studies_of(
    __file__,
    jacobian_robust=(robust_numbers, robust_text, {"": robust_picture, "_slice": robust_slice}),
)
