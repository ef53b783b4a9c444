"""Pictures of what a model has learned: the curve of a regression, confusions, worst mistakes, decision regions.

Made with matplotlib's figures alone, since pyplot would keep each of them. NaN is left out, never an error.
"""

from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from data import Dataset
from runner.evaluation.evaluate import Evaluation

Array = NDArray[np.float64]

GRID = 513  # points of the curve
MARGIN = 0.2  # of the curve beyond the data, on each side, in ranges of the data
TANGENTS = 20  # at most so many, spread over the points in order: more would hide each other
TANGENT = 0.1  # a tangent's length, in widths of the picture
READABLE = 20  # classes: beyond them the numbers in the cells would overlap
COLUMNS = 5  # images in a row
PLANE = 201  # points on each side of the plane
MARKERS = "osD^vP*X"  # of the classes, as far as they go
# Inches of 100 pixels. TensorBoard's Images page shows 350 pixels across, its Time Series page 205 down; it shrinks
# what is larger, and its letters with it.
WIDTH, HEIGHT = 3.4, 2.05
BLUE, ORANGE, GREY = "#08519c", "#fdae61", "0.65"  # a dark and a light one: they differ in grey, too


def figures_of(model: nn.Module, dataset: Dataset, test: Evaluation) -> dict[str, Figure | None]:
    """Return the pictures that suit the data: confusions, mistakes, regions of classes; a 1-D regression's curve."""
    if dataset.classes is None:
        return {"pictures/curve": regression_figure(model, dataset)}
    inputs, targets = dataset.test.inputs, dataset.test.targets
    figures: dict[str, Figure | None] = {
        "pictures/confusion": confusion_figure(test.outputs, targets, dataset.classes, "test")
    }
    if len(dataset.shape) == 3:
        figures["pictures/mistakes"] = mistakes_figure(inputs, test.outputs, targets, test.losses, dataset)
    if dataset.shape == (2,):
        figures["pictures/regions"] = regions_figure(model, dataset)
    return figures


def regression_figure(model: nn.Module, dataset: Dataset) -> Figure | None:
    """Draw the learned curve, the examples, and short tangents with the model's slope at the training points.

    In units of the raw data. None if the data is not a regression of one number on one number.
    """
    if dataset.classes is not None or dataset.shape != (1,) or dataset.outputs != 1:
        return None
    offset, scale = float(dataset.offset), float(dataset.scale)
    train, test = ((_array(part.inputs) * scale + offset, part) for part in (dataset.train, dataset.test))
    figure, axes = _figure(WIDTH, HEIGHT, right=0.8)
    if not torch.equal(dataset.test.inputs, dataset.train.inputs):
        axes.plot(test[0], _raw_targets(test[1].targets, dataset), ".", markersize=2, color=GREY, label="test")
    targets = _raw_targets(dataset.train.targets, dataset)
    axes.scatter(train[0], targets, s=8, color="black", zorder=3, label="training")
    _curve(axes, model, dataset)
    _tangents(axes, model, dataset)
    axes.set(xlabel="input (units of the data)", ylabel="output")
    axes.set_title("learned curve, and its slope at the points", fontsize=8.5, pad=3)
    axes.legend(
        fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.98, 1.05), handlelength=1, handletextpad=0.4
    )
    return figure


def confusion_figure(outputs: Tensor, targets: Tensor, classes: int, title: str) -> Figure:
    """Draw how many examples of each class, in its row, the model takes for which; shaded by their share of the row.

    Args:
        outputs: (N, C); the largest of a row is the prediction.
        targets: class numbers (N,).
        classes: their number C.
        title: what the examples are; the error is written behind it.
    """
    pairs = torch.bincount(targets * classes + outputs.argmax(1), minlength=classes**2)
    counts = pairs.reshape(classes, classes).cpu().numpy()
    total, wrong = counts.sum(), counts.sum() - counts.trace()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    figure, axes = _figure(max(WIDTH, 0.25 * min(classes, READABLE)), max(HEIGHT, 0.6 + 0.15 * min(classes, READABLE)))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if classes <= READABLE:
        axes.set(xticks=range(classes), yticks=range(classes))
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{title}: error {wrong / max(total, 1):.2%} ({wrong} of {total})", fontsize=8.5, pad=3)
    return figure


def mistakes_figure(
    inputs: Tensor, outputs: Tensor, targets: Tensor, losses: Tensor, dataset: Dataset, count: int = 10
) -> Figure | None:
    """Draw the worst mistakes: wrongly classified images, those with the highest losses first.

    Under each stand true → predicted class and the softmax of the outputs at the predicted one (its
    probability, where the model was trained by cross-entropy). None for inputs that are no images.

    Args:
        inputs: images as the model sees them (N, C, H, W), C = 1 or 3.
        outputs: (N, C), logits or log-probabilities.
        targets: class numbers (N,).
        losses: losses of the examples (N,); NaN counts as the highest.
        dataset: of which the images are, to undo its normalisation.
        count: how many images to show at most (1 or more).
    """
    if inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        return None
    predicted = outputs.argmax(1)
    wrong = (predicted != targets).nonzero().flatten()
    worst = wrong[losses[wrong].nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)[:count]]
    probabilities = outputs[worst].float().softmax(1).amax(1).tolist()
    rows = max(1, ceil(len(worst) / COLUMNS))
    figure, axes = _figure(WIDTH, rows * 0.85 + 0.35, left=0.05, bottom=0.05)
    axes.axis("off")
    axes.set_title(f"{len(wrong)} of {len(targets)} wrong: true → predicted", fontsize=8.5, pad=3)
    if len(worst):
        height, width = _mosaic(axes, _array(inputs[worst] * dataset.scale + dataset.offset))
    for index, (true, taken) in enumerate(zip(targets[worst].tolist(), predicted[worst].tolist(), strict=True)):
        row, column = divmod(index, COLUMNS)
        text = f"{true}→{taken} {probabilities[index]:.0%}"
        axes.text((column + 0.5) * width, (row + 0.9) * height, text, ha="center", va="center", fontsize=8)
    return figure


def _figure(
    width: float, height: float, left: float = 0.5, bottom: float = 0.35, right: float = 0.05
) -> tuple[Figure, Axes]:
    """Return a figure and its axes; all in inches. Axes in a fixed place cost half as much as fitted ones."""
    figure = Figure(figsize=(width, height), dpi=100)
    inner = ((width - left - right) / width, (height - bottom - 0.22) / height)
    axes = figure.add_axes((left / width, bottom / height, *inner))
    axes.tick_params(labelsize=8, length=2, pad=1)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    return figure, axes


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


def _curve(axes: Axes, model: nn.Module, dataset: Dataset) -> None:
    inputs, targets = dataset.train.inputs, _raw_targets(dataset.train.targets, dataset)
    low, high = float(inputs.min()), float(inputs.max())
    margin = MARGIN * ((high - low) or 1.0)
    grid = torch.linspace(low - margin, high + margin, GRID, device=inputs.device).unsqueeze(1)
    values, _ = _values_and_slopes(model, grid, dataset)
    bottom, top = targets.min(), targets.max()
    room = (top - bottom) or 1.0
    # A diverged curve leaves the picture, and stays within what can be drawn.
    values = values.clip(bottom - 9 * room, top + 9 * room)
    axes.plot(_array(grid) * float(dataset.scale) + float(dataset.offset), values, color=BLUE, zorder=4, label="model")
    seen = values[np.isfinite(values)]
    axes.set_ylim(
        max(bottom - room, min([bottom, *seen])) - 0.05 * room, min(top + room, max([top, *seen])) + 0.05 * room
    )


def _tangents(axes: Axes, model: nn.Module, dataset: Dataset) -> None:
    inputs = dataset.train.inputs[dataset.train.inputs[:, 0].argsort()]
    inputs = inputs[:: ceil(len(inputs) / TANGENTS)]
    values, slopes = _values_and_slopes(model, inputs, dataset)
    points = np.stack([_array(inputs)[:, 0] * float(dataset.scale) + float(dataset.offset), values], 1)
    bottom, top = axes.get_ylim()
    seen = np.isfinite(slopes) & (bottom <= values) & (values <= top)
    points, slopes = points[seen], slopes[seen]
    width = np.ptp(axes.get_xlim())
    steepness = slopes * width / (top - bottom) * axes.bbox.height / axes.bbox.width
    run = 0.5 * TANGENT * width / np.hypot(1, steepness)
    step = np.stack([run, run * slopes], 1)
    segments = np.stack([points - step, points + step], 1)
    axes.add_collection(LineCollection(list(segments), colors=ORANGE, linewidths=5, zorder=1.5, label="slope"))


def _raw_targets(targets: Tensor, dataset: Dataset) -> Array:
    return _array(targets * dataset.target_scale + dataset.target_offset)


def _values_and_slopes(model: nn.Module, inputs: Tensor, dataset: Dataset) -> tuple[Array, Array]:
    training = model.training
    model.eval()  # no example changes another's output: the gradient of the sum holds all derivatives
    with torch.enable_grad():
        points = inputs.detach().clone().requires_grad_()
        outputs = (model(points) * dataset.target_scale + dataset.target_offset)[:, 0]
        (slopes,) = torch.autograd.grad(outputs.sum(), points, materialize_grads=True)
    model.train(training)
    return _array(outputs), _array(slopes)[:, 0] / float(dataset.scale)


def _mosaic(axes: Axes, images: Array) -> tuple[int, int]:
    """Show images (N, C, H, W) as one picture, in rows; return height and width in pixels of an image's cell."""
    count, channels, height, width = images.shape
    rows = ceil(count / COLUMNS)
    images = np.nan_to_num(images, posinf=0.0, neginf=0.0)
    low, high = images.min(), images.max()
    shades = (images - low) / ((high - low) or 1.0)
    gap, line = ceil(width / 12), ceil(height / 4)  # between the images, and below them for the text
    cells = np.ones((rows * COLUMNS, height + line, width + gap, channels))
    cells[:count, :height, gap // 2 : gap // 2 + width] = shades.transpose(0, 2, 3, 1)
    cells = cells.reshape(rows, COLUMNS, height + line, width + gap, channels).swapaxes(1, 2)
    picture = cells.reshape(rows * (height + line), COLUMNS * (width + gap), channels)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return height + line, width + gap


def regions_figure(model: nn.Module, dataset: Dataset) -> Figure:
    """Draw which class the model predicts where in the plane, and the training points, in units of the raw data.

    Args:
        model: takes points (N, 2) and returns outputs (N, C); the largest is the prediction.
        dataset: of points in the plane with classes.
    """
    inputs, labels = dataset.train.inputs, dataset.train.targets.cpu()
    low, high = inputs.amin(0), inputs.amax(0)
    margin = MARGIN * (high - low).where(high > low, 1.0)
    steps = torch.linspace(0, 1, PLANE, device=inputs.device).unsqueeze(1)
    sides = low - margin + steps * (high - low + 2 * margin)  # (PLANE, 2): of the first and of the second input
    outputs = _outputs(model, torch.cartesian_prod(*sides.T)).reshape(PLANE, PLANE, -1).transpose(1, 0, 2)
    colors = colormaps["cividis"](np.linspace(0.1, 0.95, dataset.outputs))[:, :3]  # they differ in grey, too
    x, y = _array(sides * dataset.scale + dataset.offset).T
    figure, axes = _figure(WIDTH, HEIGHT, right=0.75)
    pale = 0.5 + 0.5 * colors[outputs.argmax(2)]  # for the points to be seen
    axes.imshow(pale, extent=(x[0], x[-1], y[0], y[-1]), origin="lower", aspect="auto")
    for difference in _margins(outputs):
        axes.contour(x, y, difference, levels=[0.0], colors="black", linewidths=1)
    _points(axes, _array(inputs * dataset.scale + dataset.offset), labels, colors)
    axes.set(xlabel="first input", ylabel="second input")
    axes.set_title("predicted class and training points", fontsize=8.5, pad=3)
    return figure


def _points(axes: Axes, points: Array, labels: Tensor, colors: Array) -> None:
    for label in labels.unique().tolist():
        x, y = points[labels == label].T
        axes.scatter(
            x, y, s=12, marker=MARKERS[label % len(MARKERS)], color=colors[label], label=f"class {label}",
            edgecolors="black", linewidths=0.4, zorder=3,
        )  # fmt: skip
    if len(colors) <= len(MARKERS):
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.98, 1.05), handletextpad=0.2)


def _outputs(model: nn.Module, inputs: Tensor) -> Array:
    training = model.training
    with torch.no_grad():
        outputs = model.eval()(inputs)
    model.train(training)
    return np.nan_to_num(_array(outputs), posinf=1e30, neginf=-1e30)


def _margins(outputs: Array) -> Iterator[Array]:
    for label in range(outputs.shape[2] - 1):
        margin = outputs[..., label] - np.delete(outputs, label, 2).max(2)
        if margin.min() < 0 < margin.max():
            yield margin
