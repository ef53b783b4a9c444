"""Augmentations: what they do to the inputs, and that they disturb nothing else."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_tangents import PICTURES, blobs, grid
from torch import Generator, Tensor, nn

from data import Adversarial, Augmentation, Dataset, Distortion, GaussianNoise, Split, Tangents
from data.augment import SIZES
from data.tangents import FIELDS
from losses import CrossEntropy, EagerForward, Jacobian, Penalty, SumOfSquares
from runner.config.check import ConfigError
from runner.evaluation import Attack
from runner.evaluation.probes import Subject
from runner.storage.identity import directory_name, identity, ids
from runner.training.build import build
from runner.training.compatibility import check_augment
from runner.training.loop import Loop
from runner.training.term import Term

Composed = Callable[..., Any]
SMALL = ("epochs=2", "data.train_size=60", "batch_size=20", "data.validation_size=20")
MLP = (*SMALL, "model=mlp", "model.widths=[8]")
NORMED = (*SMALL, "model=convnet", "model.channels=[4,4]", "model.norm=batch", "model.dropout=0.3")


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images_of(inputs: Tensor, *, offset: Any = 0.0, scale: Any = 1.0, limits: Any = None) -> Dataset:
    split = Split(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Dataset(split, None, split, 10, torch.as_tensor(offset), torch.as_tensor(scale), limits)


def changed(augment: Augmentation, dataset: Dataset, seed: int = 0) -> Tensor:
    """Return what becomes of the training inputs where no model is needed."""
    return augment.fit(dataset)(dataset.train, nn.Identity(), CrossEntropy(), generator(seed))


def pictures() -> Tensor:
    return torch.stack([blobs(*grid(), picture) for picture in PICTURES]).unsqueeze(1)


# Noise


def test_noise_has_the_jacobian_penalty_as_its_expectation() -> None:
    sigma, copies = 0.7, 200_000
    weights, x, y = (torch.randn(shape, generator=generator()) for shape in ((2, 3), (1, 3), (1, 2)))
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = weights
    batch = Split(x.expand(copies, -1), y.expand(copies, -1))
    noisy = GaussianNoise(sigma)(batch, model, SumOfSquares(), generator(1))
    mean = SumOfSquares()(model(noisy), batch.targets).mean().item()
    penalty = Jacobian(projections=None)
    forward = EagerForward(model, SumOfSquares(), x, y, [penalty])
    plain, value = forward.losses.mean().item(), penalty(forward).mean().item()
    assert value == pytest.approx(weights.square().sum().item(), rel=1e-5)
    assert mean == pytest.approx(plain + sigma**2 * value, rel=0.01)
    assert sigma**2 * value > 0.05 * plain  # else nothing is tested


# Distortion

# How each transformation of size a moves the coordinates: the flow of its velocity field, from the definitions.
MOVES = {
    "translation_x": lambda x, y, a: (x + a, y),
    "translation_y": lambda x, y, a: (x, y + a),
    "scaling": lambda x, y, a: (x * math.exp(a), y * math.exp(a)),
    "rotation": lambda x, y, a: (x * math.cos(a) + y * math.sin(a), y * math.cos(a) - x * math.sin(a)),
    "axis_hyperbolic": lambda x, y, a: (x * math.exp(a), y * math.exp(-a)),
    "diagonal_hyperbolic": lambda x, y, a: (
        x * math.cosh(a) + y * math.sinh(a),
        y * math.cosh(a) + x * math.sinh(a),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_distortion_is_the_picture_at_the_moved_coordinates(name: str) -> None:
    amount = 1.5 if name.startswith("translation") else 0.2
    augment = Distortion([name]).fit(images_of(pictures()))
    found = augment.transformed(pictures(), torch.tensor([[amount], [-amount], [0.0]]).double())
    for image, picture, a in zip(found, PICTURES, (amount, -amount, 0.0), strict=True):
        torch.testing.assert_close(image[0], blobs(*MOVES[name](*grid(), a), picture), atol=0.07, rtol=0)
        there_and_not = blobs(*MOVES[name](*grid(), -amount), picture) - blobs(*MOVES[name](*grid(), amount), picture)
        assert there_and_not.abs().max() > 0.15  # the tolerance is that of bilinear interpolation, not of the sign


@pytest.mark.parametrize("name", FIELDS)
def test_distortion_begins_along_the_tangent(name: str) -> None:
    images = torch.cat((pictures(), pictures().flip(3)), 1)  # of two channels
    augment = Distortion([name]).fit(images_of(images))
    ahead, behind = (augment.transformed(images, torch.full((3, 1), a).double()) for a in (1e-3, -1e-3))
    (tangents,) = Tangents([name]).fit(images)(images)
    cosine = torch.cosine_similarity((ahead - behind).flatten(1), tangents.flatten(1))
    assert cosine.min() > 0.97


def test_thickness_moves_by_its_size_where_the_image_is_steepest() -> None:
    x, y = grid()
    ramp = (3 * x + 4 * y).expand(1, 1, -1, -1)
    augment = Distortion(["thickness"]).fit(images_of(ramp))
    moved = augment.transformed(ramp, torch.tensor([[0.5]]).double())
    torch.testing.assert_close((moved - ramp)[..., 5:-5, 5:-5], torch.full((1, 1, 18, 18), 2.5).double())
    blank = torch.ones(1, 1, 28, 28).double()
    torch.testing.assert_close(augment.transformed(blank, torch.tensor([[0.5]]).double()), blank)


def test_thickness_of_an_image_knows_nothing_of_the_others() -> None:
    ramp = grid()[0].expand(1, 1, -1, -1)
    both, augment = torch.cat([ramp, 0.1 * ramp]), Distortion(["thickness"]).fit(images_of(ramp))
    together = augment.transformed(both, torch.full((2, 1), 0.5).double())
    alone = [augment.transformed(image[None], torch.full((1, 1), 0.5).double()) for image in both]
    torch.testing.assert_close(together, torch.cat(alone))


def test_amounts_are_uniform_up_to_the_size_and_of_each_image() -> None:
    ramp = grid()[0].expand(2000, 1, -1, -1)
    moved = changed(Distortion(["translation_x"], {"translation_x": 2}), images_of(ramp))
    shifts = (moved - ramp)[:, 0, 14, 14]
    assert shifts.abs().max() <= 2
    assert shifts.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist() == pytest.approx([-1, 0, 1], abs=0.15)
    assert len(shifts.unique()) > 1900
    degrees = changed(Distortion(["rotation"], {"rotation": 90}), images_of(ramp))[:, 0, 13, 13]  # at X = Y = -1/2
    assert degrees.min() == pytest.approx(-math.sqrt(0.5), abs=0.01)  # by 45 degrees
    assert degrees.max() == pytest.approx(0.5, abs=0.01)  # by 90


def test_distortion_of_nothing_changes_nothing() -> None:
    still = changed(Distortion(sizes=dict.fromkeys(SIZES, 0)), images_of(pictures()))
    torch.testing.assert_close(still, pictures())
    assert (changed(Distortion(), images_of(pictures())) - pictures()).abs().max() > 0.05
    larger = changed(Distortion(scale=2), images_of(pictures()))
    assert torch.equal(
        larger, changed(Distortion(sizes={name: 2 * SIZES[name] for name in SIZES}), images_of(pictures()))
    )
    assert torch.equal(changed(Distortion(scale=0), images_of(pictures())), still)


def test_distortion_is_of_the_raw_image_whatever_the_normalisation() -> None:
    raw = torch.cat([pictures(), pictures().flip(2)], 1)
    offset, scale = torch.randn(2, 28, 28, generator=generator()).double(), torch.rand(2, 28, 28).double() + 0.5
    plain = changed(Distortion(), images_of(raw))
    by_pixel = changed(Distortion(), images_of((raw - offset) / scale, offset=offset, scale=scale))
    by_one = changed(Distortion(), images_of((raw - 3.0) / 7.0, offset=3.0, scale=7.0))
    torch.testing.assert_close(by_pixel * scale + offset, plain)
    torch.testing.assert_close(by_one * 7.0 + 3.0, plain)


def test_distortion_keeps_the_memory_layout() -> None:
    images = torch.cat([pictures(), pictures()], 1)
    last = images.contiguous(memory_format=torch.channels_last)
    moved = changed(Distortion(), images_of(last))
    assert moved.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved, changed(Distortion(), images_of(images)))


# Adversarial


@pytest.mark.parametrize("steps", [1, 4])
def test_adversarial_is_the_attack_of_the_probe(steps: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 10))
    dataset = images_of(torch.rand(9, 1, 6, 6) * 3 - 1, offset=85.0, scale=85.0, limits=(0.0, 255.0))
    found = Adversarial(0.1, steps).fit(dataset)(dataset.train, model.train(), CrossEntropy(), generator(4))
    subject = Subject(model.eval(), CrossEntropy(), dataset, generator(4))
    (expected,) = Attack([0.1], steps).perturbed(subject, dataset.test, 0.1)
    assert torch.equal(found, expected)
    losses = [CrossEntropy()(model(inputs), dataset.train.targets).mean() for inputs in (found, dataset.train.inputs)]
    assert losses[0] > losses[1] + 0.01


@pytest.mark.parametrize("steps", [1, 3])
def test_the_attack_disturbs_neither_model_nor_draws(composed: Composed, steps: int) -> None:
    components = build(composed(*NORMED, "augment=adversarial", f"augment.steps={steps}").config)
    model, state = components.model, copy.deepcopy(components.model.state_dict())
    torch_state = torch.get_rng_state()
    components.augment(components.dataset.train[:20], model, components.criterion, generator())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(param.grad is None for param in model.parameters())
    assert torch.equal(torch.get_rng_state(), torch_state)


# In training


def looped(composed: Composed, *overrides: str) -> Loop:
    directory = composed(*overrides)
    return Loop(build(directory.config), directory.config)


def weights_after(loop: Loop, epochs: int) -> Tensor:
    for _ in range(epochs):
        loop.run_epoch()
    return torch.cat([value.double().flatten() for value in loop.components.model.state_dict().values()])


NOTHING = {  # augmentations that draw, or attack, and change nothing
    "noise": ("augment.sigma=0",),
    "adversarial": ("augment.size=0", "augment.steps=1"),
}


@pytest.mark.parametrize("option", NOTHING)
def test_a_change_of_nothing_leaves_training_bit_identical(composed: Composed, option: str) -> None:
    """With dropout, batch norm and random directions: each stream of random numbers is its own."""
    lines = (*NORMED, "batch_norm=frozen", "penalty=jacobian") if option == "noise" else NORMED
    plain = weights_after(looped(composed, *lines), 2)
    assert torch.equal(weights_after(looped(composed, *lines, f"augment={option}", *NOTHING[option]), 2), plain)
    assert not torch.equal(weights_after(looped(composed, *lines, f"augment={option}"), 2), plain)


class Seen(Penalty):
    """Notes the inputs that it sees."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []

    def __call__(self, forward: Any) -> Tensor:
        self.inputs.append(forward.inputs.detach().clone())
        return forward.outputs.square().sum(1)


def inputs_seen(loop: Loop) -> Tensor:
    seen = Seen()
    loop.components.terms.append(Term("seen", seen, weight=1e-9))
    loop.run_epoch()
    return torch.stack(seen.inputs)


def test_penalties_see_the_changed_inputs(composed: Composed) -> None:
    loops = [looped(composed, *MLP, *lines) for lines in ((), ("augment=noise", "augment.sigma=2"))]
    plain, noisy = map(inputs_seen, loops)
    noise = noisy - plain
    assert noise.std().item() == pytest.approx(2, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert not torch.equal(noise[0], noise[1])


def test_every_trial_of_a_step_sees_the_same_changes(composed: Composed) -> None:
    lines = (*MLP, "optimizer=lbfgs", "optimizer.max_iter=4", "augment=noise")
    seen = inputs_seen(looped(composed, *lines))
    assert len(seen) > 6
    assert len(seen.flatten(1).unique(dim=0)) == 3  # as many as steps


@pytest.mark.parametrize("option", ["noise", "distortion", "adversarial"])
def test_training_goes_on_where_it_was_interrupted(composed: Composed, option: str) -> None:
    lines = (*MLP, f"augment={option}")
    loop, states = looped(composed, *lines), []
    whole = weights_after_noting(loop, states)
    resumed = looped(composed, *lines)
    resumed.load_state_dict(states[4])
    assert resumed.batch == 1
    assert torch.equal(weights_after(resumed, 1), whole)
    if option != "adversarial":  # whose small random start is soon forgotten
        forgetful = looped(composed, *lines)
        forgetful.load_state_dict({key: value for key, value in states[4].items() if key != "augment_generator"})
        assert not torch.equal(weights_after(forgetful, 1), whole)


def weights_after_noting(loop: Loop, states: list[dict[str, Any]]) -> Tensor:
    """Train two epochs, and note the state before each step."""
    for _ in range(2):
        loop.run_epoch(lambda: states.append(copy.deepcopy(loop.state_dict())))
    return weights_after(loop, 0)


def test_none_keeps_the_ids_of_runs_from_before(composed: Composed) -> None:
    config = composed(*SMALL).config
    before = {key: value for key, value in config.items() if key != "augment"}
    assert ids(config) == ids(before)
    noisy = composed(*SMALL, "augment=noise", "augment.sigma=0.2").config
    assert {key for key in identity(noisy) if key.startswith("augment")} == {"augment._target_", "augment.sigma"}
    assert directory_name(noisy, "x").endswith("augment=noise,sigma=0.2,epochs=2,batch_size=20_x")


# What does not fit


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GaussianNoise(-1), "sigma must be at least 0 and finite, got -1"),
        (lambda: Adversarial(math.inf), "size must be at least 0 and finite, got inf"),
        (lambda: Adversarial(0.1, 0), "steps must be at least 1, got 0"),
        (lambda: Distortion(["rotatoin"]), f"names must be of {', '.join(FIELDS)}, got rotatoin"),
        (lambda: Distortion([]), f"names must be of {', '.join(FIELDS)}, got none"),
        (lambda: Distortion(sizes={}), f"sizes must be of {', '.join(FIELDS)}, got none"),
        (lambda: Distortion(sizes={"rotation": -1}), "sizes.rotation must be at least 0 and finite, got -1"),
        (lambda: Distortion(scale=-1), "scale must be at least 0 and finite, got -1"),
        (
            lambda: Distortion(["rotation", "scaling"], {"rotation": 1}),
            "sizes must have a number for each of names, got none for scaling",
        ),
        (
            lambda: Distortion().fit(images_of(torch.ones(2, 3))),
            "distortion is about images, and this data has inputs of shape 3",
        ),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make()


def test_distortion_of_a_curve_is_refused_before_training(composed: Composed) -> None:
    with pytest.raises(
        ConfigError, match=r"^augment: distortion is about images, and this data has inputs of shape 1$"
    ):
        build(composed("data=line", "model=mlp", "loss=mse", "augment=distortion").config)


def test_a_change_of_shape_is_refused() -> None:
    class Flat(Augmentation):
        def __call__(self, batch: Split, *_: object) -> Tensor:
            return batch.inputs.flatten(1)

    with pytest.raises(
        ValueError, match=r"^it must leave the shape of the inputs as it is, and turned \(2, 1, 28, 28\)"
    ):
        check_augment(Flat(), nn.Identity(), CrossEntropy(), images_of(pictures()))
