"""A toy set in the plane: where cross-entropy and the large margin put the boundary."""

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data import Moons
from runner.results import load_model
from runner.summary.compare import Interval
from studies import style
from studies.study import Folders, Text, runs_of, studies_of
from studies.tables import interval, paired, spread, table

POINTS, NOISE, GAMMA, ALPHA = 40, 0.1, 0.25, 50
ARMS = ("cross-entropy", "large margin")
METRICS = {
    "least_distance": "smallest distance to the boundary",
    "mean_distance": "mean distance",
    "probe/boundary/mean": "linearised, mean over test points",
    "probe/boundary/percentile_10": "linearised, 10th percentile",
    "test/error": "test/error",
}
X, Y = np.linspace(-2.0, 3.0, 501), np.linspace(-1.6, 2.1, 371)  # 0.01 apart
SHOWN = 3  # seeds in the picture


def classes_on_the_grid(path: str) -> np.ndarray:
    grid = np.stack(np.meshgrid(X, Y), -1).reshape(-1, 2)
    with torch.no_grad():
        outputs = load_model(path)(torch.from_numpy(grid).float())
    return outputs.argmax(1).numpy().reshape(len(Y), len(X))


def distances(points: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return how far each point is from the nearest one of the grid with the other class; 0 if it is wrong itself.

    Infinite if the grid has no other class. That the point is wrong is read at the nearest point of the grid.
    """
    differs = np.zeros(classes.shape, dtype=bool)  # from a neighbour: the nearest point of another class does
    for axis in (0, 1):
        edge = np.diff(classes, axis=axis) != 0
        differs |= np.pad(edge, [(0, int(axis == i)) for i in (0, 1)])
        differs |= np.pad(edge, [(int(axis == i), 0) for i in (0, 1)])
    x, y = np.meshgrid(X, Y)
    edges = [np.stack([x[own], y[own]], 1) for own in (differs & (classes != label) for label in (0, 1))]
    nearest = classes[np.abs(Y[:, None] - points[:, 1]).argmin(0), np.abs(X[:, None] - points[:, 0]).argmin(0)]
    found = [
        np.linalg.norm(edges[label] - point, axis=1).min(initial=np.inf)
        for point, label in zip(points, labels, strict=True)
    ]
    return np.where(nearest == labels, found, 0.0)


def training_points() -> tuple[np.ndarray, np.ndarray]:
    train = Moons(n=POINTS, noise=NOISE).load().train
    return train.inputs.numpy(), train.targets.numpy()


def numbers(folders: Folders) -> pd.DataFrame:
    measured = [name for name in METRICS if "/" in name]
    runs = runs_of(folders["margin_moons"], *measured, "train/error", "path")
    points, labels = training_points()
    found = [distances(points, labels, classes_on_the_grid(path)) for path in runs["path"]]
    runs.insert(1, "least_distance", [each.min() for each in found])
    runs.insert(2, "mean_distance", [each.mean() for each in found])
    return runs.replace({"arm": {"cross_entropy": ARMS[0], "large_margin": ARMS[1]}}).drop(columns="path")


def text(runs: pd.DataFrame) -> Text:
    entropy, margin = (runs["arm"] == arm for arm in ARMS)
    rows = []
    for metric, name in METRICS.items():
        cells = (spread(runs.loc[mask, metric], 3) for mask in (entropy, margin))
        rows.append((name, *cells, interval(paired(runs, metric, margin, entropy), 3)))
    return [
        *table(["", *ARMS, "difference"], rows),
        "",
        f"Mean (standard deviation) of {entropy.sum()} seeds, the difference paired with its 95 % interval. With the "
        "large margin the distance of the training point nearest to the boundary is "
        f"{_verdict(paired(runs, 'least_distance', margin, entropy))}, the mean over all training points "
        f"{_verdict(paired(runs, 'mean_distance', margin, entropy))}. These distances were measured on a grid of .01. "
        "The loss and the probe take linearised ones, to a plane with the slope at the point, but the boundary can "
        "bend and come nearer.",
    ]


def _verdict(found: Interval) -> str:
    if found.low <= 0 <= found.high:
        return "not different beyond chance"
    return "larger" if found.low > 0 else "smaller"


def picture(runs: pd.DataFrame, folders: Folders) -> Figure:
    figure, axes = style.figure(2, SHOWN, height=2.3, sharex=True, sharey=True)
    found = runs_of(folders["margin_moons"], "path")
    points, labels = training_points()
    for row, (arm, title) in enumerate(zip(("cross_entropy", "large_margin"), ARMS, strict=True)):
        chosen = found[found["arm"] == arm].head(SHOWN)
        for each, (_, run) in zip(axes[row], chosen.iterrows(), strict=False):
            classes = classes_on_the_grid(run["path"])
            least = distances(points, labels, classes).min()
            _regions(each, classes, points, labels)
            each.set_title(f"{title}, seed {run['seed']}: smallest {least:.2f}", fontsize=8)
    figure.supxlabel("first input", fontsize=9)
    figure.supylabel("second input", fontsize=9)
    return figure


def _regions(axes: Axes, classes: np.ndarray, points: np.ndarray, labels: np.ndarray) -> None:
    axes.grid(visible=False)
    axes.contourf(X, Y, classes, levels=[0.5, 1.5], colors=["0.85"])
    axes.contour(X, Y, classes, levels=[0.5], colors=["black"], linewidths=1.2)
    for label, marker in ((0, "o"), (1, "s")):
        x, y = points[labels == label].T
        axes.plot(x, y, marker, color=style.COLORS[label], markersize=4, markeredgecolor="black", markeredgewidth=0.4)
    axes.set_aspect("equal")


STUDIES = studies_of(
    __file__,
    margin_moons=(numbers, text, {"": picture}),
)
