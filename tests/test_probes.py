"""Probes: their numbers on models small enough to know the right ones by another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor, nn

from data import Dataset, Digits, Raw, Split, prepare
from losses import CrossEntropy
from runner.evaluation.probes import Boundary, JacobianNorm, Slope, Subject, Zeros, jacobians
from runner.evaluation.robustness import Attack, Noise, Perturbation, Rotation, Shift


def subject_of(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    offset: float = 0.0,
    scale: float = 1.0,
    limits: tuple[float, float] | None = None,
) -> Subject:
    """Ask about a model of two classes, or of a curve, on test (and training) examples given in raw units."""
    split = Split((inputs - offset) / scale, targets)
    classes = None if targets.is_floating_point() else 2
    dataset = Dataset(split, None, split, classes, torch.tensor(offset), torch.tensor(scale), limits)
    return Subject(model.eval(), CrossEntropy(), dataset, Generator().manual_seed(0))


def linear(weights: list[list[float]] | Tensor, bias: list[float] | None = None) -> nn.Module:
    """A linear model of given weights (C, D), whatever the shape of its inputs."""
    weight = torch.as_tensor(weights)
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], weight.shape[0]))
    model[1].weight.data = weight.clone()
    model[1].bias.data = torch.zeros(len(weight)) if bias is None else torch.tensor(bias)
    return model


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


@pytest.fixture
def curved() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def test_jacobian_norm(curved: nn.Module) -> None:
    inputs = draw(7, 4)
    jacobians = [torch.func.jacrev(curved)(x) for x in inputs]
    found = JacobianNorm()(subject_of(curved, inputs, torch.zeros(7, dtype=torch.long)))
    assert found["frobenius"] == pytest.approx(sum(j.norm().item() for j in jacobians) / 7, rel=1e-5)
    largest = [torch.linalg.svdvals(j)[0].item() for j in jacobians]
    assert found["sigma_1"] == pytest.approx(sum(largest) / 7, rel=1e-5)
    first = JacobianNorm(examples=2)(subject_of(curved, inputs, torch.zeros(7, dtype=torch.long)))
    assert first["frobenius"] == pytest.approx((jacobians[0].norm() + jacobians[1].norm()).item() / 2, rel=1e-5)


def test_jacobians_of_many_outputs_come_in_smaller_batches(curved: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and neither the norm nor the distances change."""
    subject = subject_of(curved, draw(7, 4), torch.tensor([0, 1, 1, 0, 1, 0, 0]))
    (whole,) = jacobians(curved, subject.dataset.test.inputs)
    norm, distances = JacobianNorm()(subject), Boundary()(subject)["distances"]
    monkeypatch.setattr("runner.evaluation.probes.MOST_ENTRIES", 2 * whole[0].numel() + 1)
    batches = list(jacobians(curved, subject.dataset.test.inputs))
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    torch.testing.assert_close(torch.cat(batches), whole)
    assert JacobianNorm()(subject) == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close(Boundary()(subject)["distances"], distances)
    monkeypatch.setattr("runner.evaluation.probes.MOST_ENTRIES", 1)
    assert len(list(jacobians(curved, subject.dataset.test.inputs))) == 7  # one at a time is the least


def test_zeros() -> None:
    model = linear([[0.0, 1e-30, 2.0], [0.0, 0.0, -1.0]], [0.0, 3.0])
    found = Zeros()(subject_of(model, draw(1, 3), torch.tensor([0])))
    assert found == {"all": 4 / 8, "1.weight": 3 / 6, "1.bias": 1 / 2}


def test_boundary_of_a_linear_model_is_the_distance_to_the_nearest_hyperplane() -> None:
    weights, inputs, targets = draw(2, 3), draw(5, 3, seed=1), torch.tensor([0, 1, 0, 1, 0])
    expected = []
    for x, y in zip(inputs, targets.tolist(), strict=True):
        normal = weights[y] - weights[1 - y]
        expected.append((normal @ x / normal.norm()).item())
    assert min(expected) < 0 < max(expected)  # some are wrong
    found = Boundary()(subject_of(linear(weights), inputs, targets))
    torch.testing.assert_close(found["distances"], torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)
    assert found["mean"] == pytest.approx(sum(expected) / 5, rel=1e-5)
    below, above = sorted(expected)[:2]
    assert found["percentile_10"] == pytest.approx(below + 0.4 * (above - below), rel=1e-4)


def test_boundary_is_that_of_the_nearest_of_several_classes(curved: nn.Module) -> None:
    inputs, targets = draw(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])

    def gap(x: Tensor, right: int, wrong: int) -> Tensor:
        outputs = curved(x)
        return outputs[right] - outputs[wrong]

    def distance(x: Tensor, right: int, wrong: int) -> float:
        return (gap(x, right, wrong) / torch.func.grad(gap)(x, right, wrong).norm()).item()

    pairs = zip(inputs, targets.tolist(), strict=True)
    expected = [min(distance(x, right, wrong) for wrong in {0, 1, 2} - {right}) for x, right in pairs]
    found = Boundary()(subject_of(curved, inputs, targets))
    torch.testing.assert_close(found["distances"], torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


def test_boundary_of_a_constant_network_is_far_or_here_and_no_nan() -> None:
    model = linear(torch.zeros(2, 3), [1.0, 1.0])
    found = Boundary()(subject_of(model, draw(2, 3), torch.tensor([0, 1])))
    assert (found["mean"], found["distances"].tolist()) == (0.0, [0.0, 0.0])
    model[1].bias.data[0] = 2.0
    distances = Boundary()(subject_of(model, draw(2, 3), torch.tensor([0, 1])))["distances"]
    assert distances[0] > 1e9
    assert distances[1] < -1e9
    assert distances.isfinite().all()  # for the histogram


class Curve(nn.Module):
    """y = x^2 of x in raw units, of which the model sees (x - 1) / 4."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (4 * inputs + 1).square()


def test_slope_is_in_raw_units_at_each_point_and_greatest_in_each_gap() -> None:
    points = torch.tensor([[2.0], [-1.0], [0.0], [2.0]])
    found = Slope(grid=9)(subject_of(Curve(), points, points, offset=1.0, scale=4.0))
    slopes = {"at_0": -2.0, "at_1": 0.0, "at_2": 4.0, "gap_0": 1.8, "gap_1": 3.6}  # a tenth of each gap before its end
    assert found == pytest.approx({"at_points": 4.0, "between": 1.8, **slopes}, abs=1e-5)


def test_slope_is_in_raw_units_of_scaled_targets() -> None:
    subject = subject_of(Curve(), torch.tensor([[2.0], [0.0]]), torch.zeros(2, 1), offset=1.0, scale=4.0)
    scaled = replace(subject, dataset=replace(subject.dataset, target_scale=torch.tensor([10.0])))
    plain, found = Slope(grid=9)(subject), Slope(grid=9)(scaled)
    assert found == pytest.approx({name: 10 * value for name, value in plain.items()})


def test_black_is_the_least_of_the_range() -> None:
    pictures = draw(3, 1, 6, 6).clamp(-1, 1)
    subject = subject_of(linear(draw(2, 36)), pictures, torch.tensor([0, 1, 1]), limits=(-1.0, 1.0))
    padded = nn.functional.pad(pictures, (2, 2, 2, 2), value=-1.0)
    moved = Shift([2]).perturbed(subject, subject.dataset.test, 2)
    torch.testing.assert_close(moved[0], padded[..., 2:8, 4:10], rtol=0, atol=1e-4)


def errors(probe: Perturbation, subject: Subject) -> list[float]:
    return [float(error) for error in probe(subject).values()]


@pytest.mark.parametrize(("count", "numbers"), [(20, 2 + 20 + 19), (21, 2)])
def test_slope_tells_of_each_point_only_where_there_are_few(count: int, numbers: int) -> None:
    points = torch.linspace(0, 1, count).unsqueeze(1)
    assert len(Slope(grid=1)(subject_of(Curve(), points, points))) == numbers


def test_noise_has_the_given_deviation_in_fractions_of_the_range() -> None:
    """Examples at .3 of the range from the boundary: P(noise > .3)."""
    inputs = torch.tensor([[0.3], [-0.3]]).repeat(5000, 1) * 255 + 7
    model, targets = linear([[1.0], [-1.0]]), torch.tensor([0, 1]).repeat(5000)
    subject = subject_of(model, inputs, targets, offset=7.0, scale=50.0, limits=(0.0, 255.0))
    found = Noise([0, 0.2, 0.6])(subject)
    assert list(found) == ["0", "0.2", "0.6"]
    for sigma, error in zip([0.2, 0.6], list(found.values())[1:], strict=True):
        tail = math.erfc(0.3 / sigma / math.sqrt(2)) / 2
        assert error == pytest.approx(tail, abs=4 * math.sqrt(tail * (1 - tail) / 10_000))
    assert found["0"] == 0


@pytest.fixture
def images() -> Subject:
    """Three images of bytes."""
    raw = torch.randint(0, 256, (3, 1, 6, 6), generator=Generator().manual_seed(0)).float()
    return subject_of(linear(draw(2, 36)), raw, torch.tensor([0, 1, 1]), offset=33.0, scale=70.0, limits=(0.0, 255.0))


def raw(subject: Subject, inputs: Tensor) -> Tensor:
    return inputs * subject.dataset.scale + subject.dataset.offset


def test_shift_moves_by_whole_pixels_four_ways_and_black_comes_in(images: Subject) -> None:
    split = images.dataset.test
    found = [raw(images, inputs) for inputs in Shift([2]).perturbed(images, split, 2)]
    padded = nn.functional.pad(raw(images, split.inputs), (2, 2, 2, 2))
    expected = [padded[..., y : y + 6, x : x + 6] for y, x in ((2, 4), (2, 0), (4, 2), (0, 2))]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.01)


def test_rotation_by_a_quarter_turns_either_way(images: Subject) -> None:
    split = images.dataset.test
    found = [raw(images, inputs) for inputs in Rotation([90]).perturbed(images, split, 90)]
    expected = [torch.rot90(raw(images, split.inputs), turns, (2, 3)) for turns in (1, -1)]
    if not torch.allclose(found[0], expected[0], atol=0.01):
        expected.reverse()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.01)


@pytest.mark.parametrize("shape", [(20, 40), (31, 12), (28, 28)])
@pytest.mark.parametrize("normalize", ["scalar", "component"])
def test_rotation_is_that_of_pixels_whatever_the_shape(shape: tuple[int, int], normalize: str) -> None:
    """Real digits, stretched, against scipy."""
    digits = Digits().load().train.inputs[:20].float()
    pictures = nn.functional.interpolate(digits, shape, mode="bilinear").round().byte()
    labels = torch.zeros(20, dtype=torch.long)
    dataset = prepare(Raw(Split(pictures, labels), Split(pictures, labels), 2), normalize=normalize, validation_size=0)
    subject = Subject(linear(draw(2, math.prod(shape))), CrossEntropy(), dataset, Generator())
    for found, angle in zip(Rotation([20]).perturbed(subject, dataset.test, 20), (20, -20), strict=True):
        expected = ndimage.rotate(
            pictures.float().numpy(), angle, (3, 2), reshape=False, order=1, mode="grid-constant", cval=0.0
        )
        torch.testing.assert_close(raw(subject, found), torch.from_numpy(expected), rtol=0, atol=0.01)


def test_error_of_a_perturbation_is_the_mean_over_its_directions() -> None:
    """Bright pixels left of the middle are class 0: of the four shifts, that to the right alone makes them class 1."""
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1:3, 1] = 1
    columns = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).tile(1, 4)  # the sums of the left and of the right half
    assert errors(Shift([1]), subject_of(linear(columns), image, torch.tensor([0]))) == [0.25]


@pytest.mark.parametrize("steps", [1, 10])
def test_attack_on_a_linear_model_finds_the_worst_corner(steps: int) -> None:
    """A margin m falls by size * ||w||_1 and no further, so that each example's fate is known."""
    weights, inputs = draw(2, 8), 5 * draw(200, 8, seed=1)
    model = linear(weights)
    targets = model(inputs).argmax(1)
    normal = weights[0] - weights[1]
    margins = (inputs @ normal).abs()
    for size in (0.3, 1.0):
        expected = (margins < size * normal.abs().sum()).double().mean().item()
        assert 0 < expected < 1
        assert errors(Attack([size], steps), subject_of(model, inputs, targets)) == [expected]


@pytest.mark.parametrize("steps", [1, 10])
def test_attack_stays_within_its_size_and_images_stay_images(images: Subject, steps: int) -> None:
    split = images.dataset.test
    (moved,) = Attack([0.1], steps).perturbed(images, split, 0.1)
    before, after = raw(images, split.inputs), raw(images, moved)
    assert after.min() >= -1e-3
    assert after.max() <= 255 + 1e-3
    assert (after - before).abs().max() <= 25.5 + 1e-3
    inner = (before > 25.5) & (before < 255 - 25.5)
    torch.testing.assert_close((after - before).abs()[inner], torch.full((int(inner.sum()),), 25.5), rtol=0, atol=1e-2)


@pytest.mark.parametrize("steps", [1, 10])
def test_attack_on_images_of_other_numbers_knows_no_range(steps: int) -> None:
    pictures = 40 * draw(3, 1, 6, 6)
    subject = subject_of(linear(draw(2, 36)), pictures, torch.tensor([0, 1, 1]), offset=33.0, scale=70.0)
    for size in (0.0, 2.0):
        (moved,) = Attack([size], steps).perturbed(subject, subject.dataset.test, size)
        changes = (raw(subject, moved) - pictures).abs()
        torch.testing.assert_close(changes, torch.full_like(changes, size), rtol=0, atol=1e-3)


def test_one_step_starts_at_the_input_and_more_at_random(images: Subject) -> None:
    """With no slope to climb the first stays where it is; the other stays where it began."""
    flat = Subject(linear(torch.zeros(2, 36)), images.criterion, images.dataset, images.generator)
    split = images.dataset.test
    (fgsm,), (pgd,) = (Attack([0.1], steps).perturbed(flat, split, 0.1) for steps in (1, 10))
    torch.testing.assert_close(fgsm, split.inputs)
    assert (pgd != split.inputs).double().mean() > 0.9
    inner = (raw(images, split.inputs) - 127.5).abs() < 102  # farther from the ends of the range than the size
    moves = ((raw(images, pgd) - raw(images, split.inputs)) / 25.5)[inner]
    assert moves.min() < -0.8  # uniform over the box
    assert moves.max() > 0.8
    assert moves.mean().abs() < 0.2


def test_the_network_is_asked_of_images_alone(images: Subject) -> None:
    """The random start is no exception."""
    seen: list[Tensor] = []
    images.model.register_forward_pre_hook(lambda _, inputs: seen.append(raw(images, inputs[0])))
    Attack([0.5], steps=3).perturbed(images, images.dataset.test, 0.5)
    assert len(seen) == 3
    assert all(asked.min() >= -1e-3 and asked.max() <= 255 + 1e-3 for asked in seen)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Noise([]), r"sizes must be a list of finite numbers of at least 0, got \[\]"),
        (lambda: Noise([-1]), r"sizes must be a list of finite numbers of at least 0, got \[-1\]"),
        (lambda: Attack([1], steps=0), r"steps must be at least 1, got 0"),
        (lambda: Boundary(examples=0), r"examples must be at least 1 or null, got 0"),
        (lambda: Slope(grid=0), r"grid must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make()


def test_a_probe_that_does_not_suit_the_data_is_refused(images: Subject) -> None:
    flat = subject_of(linear(draw(2, 3)), draw(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"^shift is about images, and this data has inputs of shape 3$"):
        Shift([1]).check(flat.dataset)
    with pytest.raises(ValueError, match=r"^slope is of a curve"):
        Slope().check(images.dataset)
    Shift([1]).check(images.dataset)
