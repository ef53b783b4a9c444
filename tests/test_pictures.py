"""The pictures: what they show, read back from the figures, and that NaN never raises."""

import io
from typing import Literal

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from torch import nn

from data import Dataset, Raw, Split, prepare
from runner.evaluation.evaluate import Evaluation
from runner.recording.pictures import confusion_figure, figures_of, mistakes_figure, regions_figure, regression_figure


class Parabola(nn.Module):
    """y = x^2 in units of the raw data, by a model of normalised inputs and outputs; dropout must be off."""

    def __init__(self, dataset: Dataset, factor: float = 1.0) -> None:
        super().__init__()
        self.offset, self.scale, self.factor, self.dataset = dataset.offset, dataset.scale, factor, dataset
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raw = self.factor * self.dropout((inputs * self.scale + self.offset).square())
        return (raw - self.dataset.target_offset) / self.dataset.target_scale


def parabola_data(points: int = 5, normalize: Literal["scalar", "auto"] = "scalar") -> Dataset:
    inputs = torch.linspace(1, 9, points).unsqueeze(1)
    part = Split(inputs, inputs.square())
    return prepare(Raw(part, part, classes=None), validation_size=0, normalize=normalize)


def image_data(images: torch.Tensor, labels: torch.Tensor) -> Dataset:
    return prepare(Raw(Split(images, labels), Split(images, labels), classes=4), validation_size=0)


def pixels(figure: Figure) -> np.ndarray:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=figure.dpi)
    png.seek(0)
    return matplotlib.image.imread(png)


@pytest.mark.parametrize("normalize", ["scalar", "auto"])
def test_the_curve_is_the_models_in_units_of_the_raw_data(normalize: Literal["scalar", "auto"]) -> None:
    dataset = parabola_data(normalize=normalize)
    model = Parabola(dataset).train()
    figure = regression_figure(model, dataset)
    assert figure is not None
    assert model.training, "the mode must be restored"
    assert all(module.training for module in model.modules())
    axes = figure.axes[0]
    (line,) = axes.lines
    x, y = np.asarray(line.get_xdata()).ravel(), np.asarray(line.get_ydata())
    assert x.min() < 1 - 0.5
    assert x.max() > 9 + 0.5
    np.testing.assert_allclose(y, x**2, rtol=1e-3, atol=1e-3)
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(points, [[1, 1], [3, 9], [5, 25], [7, 49], [9, 81]], rtol=1e-4)
    assert pixels(figure).std() > 0.05


@pytest.mark.parametrize("normalize", ["scalar", "auto"])
def test_tangents_have_the_slope_in_raw_units_and_one_length_on_the_picture(
    normalize: Literal["scalar", "auto"],
) -> None:
    dataset = parabola_data(normalize=normalize)
    figure = regression_figure(Parabola(dataset), dataset)
    assert figure is not None
    axes = figure.axes[0]
    (tangents,) = (c for c in axes.collections if isinstance(c, LineCollection))
    segments = np.stack(tangents.get_segments())
    middles, steps = segments.mean(1), segments[:, 1] - segments[:, 0]
    np.testing.assert_allclose(middles[:, 0], [1, 3, 5, 7, 9], rtol=1e-4)
    np.testing.assert_allclose(steps[:, 1] / steps[:, 0], 2 * middles[:, 0], rtol=1e-4)
    ends = axes.transData.transform(segments.reshape(-1, 2)).reshape(-1, 2, 2)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=0.02)


def test_many_points_get_few_tangents_and_one_point_a_picture() -> None:
    many = parabola_data(1000)
    figure = regression_figure(Parabola(many), many)
    assert figure is not None
    (tangents,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    assert 5 <= len(tangents.get_segments()) <= 50
    one = parabola_data(1)
    figure = regression_figure(Parabola(one), one)
    assert figure is not None
    pixels(figure)


def test_a_picture_of_a_curve_is_for_one_number_on_one_number() -> None:
    plane = Split(torch.rand(4, 2), torch.rand(4, 1))
    assert regression_figure(nn.Linear(2, 1), prepare(Raw(plane, plane, None), validation_size=0)) is None
    images = image_data(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4))
    assert regression_figure(nn.Linear(1, 1), images) is None


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -1e30, 1e38])
def test_a_diverged_curve_is_drawn_without_an_error(factor: float) -> None:
    dataset = parabola_data()
    figure = regression_figure(Parabola(dataset, factor), dataset)
    assert figure is not None
    bottom, top = figure.axes[0].get_ylim()
    assert -500 < bottom < 1, "the data stays visible"
    assert 81 < top < 500
    pixels(figure)


def test_confusions_are_counted_true_by_row_and_predicted_by_column() -> None:
    targets = torch.tensor([0, 0, 0, 1, 2, 2])
    outputs = torch.eye(3)[[0, 0, 2, 1, 2, 1]]
    axes = confusion_figure(outputs, targets, 3, "validation").axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert cells == {(0, 0): "2", (2, 0): "1", (1, 1): "1", (2, 2): "1", (1, 2): "1"}
    assert axes.get_title() == "validation: error 33.33% (2 of 6)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares, [[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0.5, 0.5]])


def test_a_hundred_classes_and_nan_make_a_confusion_figure_too() -> None:
    figure = confusion_figure(torch.full((10, 100), float("nan")), torch.arange(10), 100, "test")
    assert not figure.axes[0].texts
    pixels(figure)


def test_the_worst_mistakes_come_first_and_look_like_the_raw_images() -> None:
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)  # every image spans all shades
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    dataset = image_data(images, targets)
    outputs = torch.eye(4)[[1, 1, 3, 0, 0, 2]] * 5
    losses = torch.tensor([1.0, 9.0, 3.0, float("nan"), 8.0, 2.0])  # of the wrong ones 0, 2, 3, 5: nan first
    figure = mistakes_figure(dataset.train.inputs, outputs, targets, losses, dataset, count=3)
    assert figure is not None
    axes = figure.axes[0]
    probability = f"{np.exp(5) / (np.exp(5) + 3):.0%}"
    assert [text.get_text() for text in axes.texts] == [f"{pair} {probability}" for pair in ("3→0", "2→3", "1→2")]
    assert axes.get_title().startswith("4 of 6 wrong")
    mosaic = np.asarray(axes.images[0].get_array())
    for place, index in enumerate((3, 2, 5)):
        (x, y), height = axes.texts[place].get_position(), mosaic.shape[0]
        shown = mosaic[:8, max(0, round(x) - 5) : round(x) + 6]
        expected = images[index, 0].numpy() / 255
        windows = [shown[:, start : start + 8] for start in range(4)]
        assert any(window.shape == (8, 8) and np.allclose(window, expected, atol=1e-5) for window in windows)
        assert 8 <= y <= height, "the text stands below its image"


def test_colour_images_and_component_normalisation() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 0])
    part = Split(images, targets)
    dataset = prepare(Raw(part, part, classes=4), validation_size=0, normalize="component")
    outputs = torch.eye(4)[[1, 2, 3, 0, 1]]
    figure = mistakes_figure(dataset.train.inputs, outputs, targets, torch.arange(5.0), dataset)
    assert figure is not None
    mosaic = np.asarray(figure.axes[0].images[0].get_array())
    assert mosaic.shape[2] == 3
    low, high = float(images.min()), float(images.max())
    worst = (images[4].numpy().transpose(1, 2, 0) - low) / (high - low)
    assert any(np.allclose(mosaic[:8, start : start + 8], worst, atol=1e-4) for start in range(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_mistakes_of_nan_are_drawn_without_an_error(value: float) -> None:
    targets = torch.tensor([1, 2, 3, 0])
    dataset = image_data(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), targets)
    nan = torch.full((4, 4), value)
    figure = mistakes_figure(torch.full((4, 1, 8, 8), value), nan, targets, nan[0], dataset)
    assert figure is not None
    pixels(figure)


def test_no_mistakes_and_no_images() -> None:
    targets = torch.arange(4)
    dataset = image_data(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), targets)
    figure = mistakes_figure(dataset.test.inputs, torch.eye(4), targets, torch.zeros(4), dataset)
    assert figure is not None
    assert not figure.axes[0].images
    pixels(figure)
    assert mistakes_figure(torch.zeros(4, 7), torch.eye(4), targets, torch.zeros(4), dataset) is None


class Stripes(nn.Module):
    """Class 0 left of x = 1, class 1 up to x = 3, class 2 beyond; or what `values` says everywhere."""

    def __init__(self, dataset: Dataset, values: list[float] | None = None) -> None:
        super().__init__()
        self.offset, self.scale, self.values = dataset.offset, dataset.scale, values
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.dropout(inputs * self.scale + self.offset)[:, 0]
        if self.values is not None:
            return torch.tensor(self.values).expand(len(x), 3)
        return torch.stack([1 - x, torch.zeros_like(x), x - 3], 1)


def plane_data() -> Dataset:
    points = torch.cartesian_prod(torch.linspace(0, 4, 7), torch.linspace(-30, -10, 5))
    part = Split(points, (points[:, 0] > 1).long() + (points[:, 0] > 3).long())
    return prepare(Raw(part, part, classes=3), validation_size=0, normalize="component")


def test_regions_are_the_predictions_in_units_of_the_raw_data() -> None:
    dataset = plane_data()
    model = Stripes(dataset).train()
    figure = regions_figure(model, dataset)
    assert model.training
    axes = figure.axes[0]
    (image,) = axes.images
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == pytest.approx((-0.8, 4.8, -34, -6), rel=1e-5)
    picture = np.asarray(image.get_array())
    columns = [round((x - left) / (right - left) * (picture.shape[1] - 1)) for x in (0.9, 1.1, 2.9, 3.1)]
    assert (picture[:, columns] == picture[:1, columns]).all(), "the second input changes nothing"
    shades = picture[0, columns] @ [0.3, 0.6, 0.1]
    assert shades[1] == shades[2]
    assert min(np.diff(shades[[0, 1, 3]])) > 0.1, "they differ in grey"
    drawn = [path.vertices for c in axes.collections if isinstance(c, ContourSet) for path in c.get_paths()]
    assert {round(x, 2) for x, _ in np.concatenate(drawn).tolist()} == {1.0, 3.0}
    points = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)])
    assert len(points) == 35
    assert points.min(0).tolist() == pytest.approx([0, -30], abs=1e-5)
    assert pixels(figure).std() > 0.05


@pytest.mark.parametrize("values", [[1.0, 0.0, 0.0], [float("nan")] * 3, [0.0, float("inf"), float("-inf")]])
def test_one_class_everywhere_or_nan_makes_a_picture_of_regions_too(values: list[float]) -> None:
    dataset = plane_data()
    pixels(regions_figure(Stripes(dataset, values), dataset))


def test_regions_are_a_picture_of_classes_in_the_plane() -> None:
    plane = plane_data()
    evaluation = Evaluation(torch.zeros(35, 3), torch.zeros(35), torch.zeros(35, dtype=torch.bool))
    assert set(figures_of(Stripes(plane), plane, evaluation)) == {"pictures/confusion", "pictures/regions"}
