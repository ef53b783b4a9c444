"""Criteria: values by hand and by torch, derivatives of all kinds, and what they refuse."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from losses.criterion import (
    MSE,
    NLL,
    AbsoluteError,
    CrossEntropy,
    MSEOneHot,
    MultiMargin,
    SumOfSquares,
)

# torch 2.15 warns itself when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

B, C = 6, 4
CLASSES = [
    (CrossEntropy(), nn.CrossEntropyLoss()),
    (CrossEntropy(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1)),
    (NLL(), nn.NLLLoss()),
    (MultiMargin(), nn.MultiMarginLoss()),
    (MultiMargin(margin=0.3, p=2), nn.MultiMarginLoss(margin=0.3, p=2)),
]
VALUES = [(MSE(), nn.MSELoss()), (AbsoluteError(), nn.L1Loss())]
ALL = [criterion for criterion, _ in CLASSES + VALUES] + [MSEOneHot(), SumOfSquares()]


def name(criterion):
    options = [f"{key}={value}" for key, value in vars(criterion).items()] if vars(criterion) else []
    return f"{type(criterion).__name__}({', '.join(options)})"


def draw(criterion, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(B, C, dtype=dtype, generator=generator)
    if criterion.targets == "classes":
        return outputs, torch.randint(C, (B,), generator=generator)
    return outputs, torch.randn(B, C, dtype=dtype, generator=generator)


def test_cross_entropy_and_nll_give_the_lectures_number():
    outputs = torch.tensor([[-1.0, -3.0, 4.0], [-3.0, 3.0, -1.0]])
    targets = torch.tensor([0, 1])
    assert CrossEntropy()(outputs, targets).mean().item() == pytest.approx(2.5141, abs=5e-5)
    assert NLL()(outputs.log_softmax(dim=1), targets).mean().item() == pytest.approx(2.5141, abs=5e-5)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_uniform_outputs_is_the_logarithm_of_the_classes(classes, smoothing):
    outputs = torch.full((3, classes), 7.0, dtype=torch.float64)
    targets = torch.tensor([0, 1, classes - 1])
    expected = torch.full((3,), math.log(classes), dtype=torch.float64)
    torch.testing.assert_close(CrossEntropy(label_smoothing=smoothing)(outputs, targets), expected)
    torch.testing.assert_close(NLL()(outputs.log_softmax(dim=1), targets), expected)


@pytest.mark.parametrize(("criterion", "theirs"), CLASSES + VALUES, ids=lambda c: name(c)[:40])
def test_the_mean_over_a_batch_is_torchs(criterion, theirs):
    outputs, targets = draw(criterion)
    losses = criterion(outputs, targets)
    assert losses.shape == (B,)
    torch.testing.assert_close(losses.mean(), theirs(outputs, targets))


def test_label_smoothing_by_hand():
    outputs, targets = draw(CrossEntropy())
    s = 0.3
    expected = [
        -sum(((1 - s) * (c == y) + s / C) * math.log(math.exp(row[c]) / sum(map(math.exp, row))) for c in range(C))
        for row, y in zip(outputs.tolist(), targets.tolist(), strict=True)
    ]
    assert CrossEntropy(label_smoothing=s)(outputs, targets).tolist() == pytest.approx(expected)


def test_squares_and_absolute_errors_by_hand():
    outputs = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]])
    classes, values = torch.tensor([1, 2]), torch.tensor([[0.0, 2.0, 1.0], [1.0, -1.0, 1.0]])
    assert MSEOneHot()(outputs, classes).tolist() == pytest.approx([(1 + 1 + 16) / 3, 0.0])
    assert MSE()(outputs, values).tolist() == pytest.approx([10 / 3, 2 / 3])
    assert SumOfSquares()(outputs, values).tolist() == [10.0, 2.0]
    assert AbsoluteError()(outputs, values).tolist() == pytest.approx([4 / 3, 2 / 3])


def test_mse_one_hot_is_mse_on_the_one_hot_matrix():
    outputs, targets = draw(MSEOneHot())
    one_hot = nn.functional.one_hot(targets, C).double()
    torch.testing.assert_close(MSEOneHot()(outputs, targets).mean(), nn.MSELoss()(outputs, one_hot))


def test_multi_margin_by_hand():
    outputs, targets = torch.tensor([[1.0, 0.5, 3.0], [0.0, 0.0, 5.0]]), torch.tensor([0, 2])
    assert MultiMargin()(outputs, targets).tolist() == pytest.approx([(0.5 + 3.0) / 3, 0.0])
    assert MultiMargin(margin=2.0, p=2)(outputs, targets).tolist() == pytest.approx([(2.25 + 16) / 3, 0.0])


@pytest.mark.parametrize("criterion", ALL, ids=name)
def test_first_and_second_derivatives_in_both_modes(criterion):
    outputs, targets = draw(criterion)
    outputs.requires_grad_()
    assert gradcheck(lambda x: criterion(x, targets), outputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(lambda x: criterion(x, targets), outputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("criterion", ALL, ids=name)
def test_func_agrees_with_plain_autograd(criterion):
    outputs, targets = draw(criterion)
    leaf = outputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(criterion(leaf, targets).sum(), leaf)

    def loss(row, target):
        return criterion(row.unsqueeze(0), target.unsqueeze(0)).squeeze(0)

    for gradient in (grad(loss), jacrev(loss), jacfwd(loss)):
        torch.testing.assert_close(vmap(gradient)(outputs, targets), expected)
    row, target = outputs[:1], targets[:1]
    second = torch.autograd.functional.hessian(lambda row: criterion(row, target).sum(), row)
    torch.testing.assert_close(vmap(hessian(loss))(row, target)[0], second[0, :, 0])


@pytest.mark.parametrize("criterion", ALL, ids=name)
def test_vmap_over_a_stack_of_models(criterion):
    outputs, targets = draw(criterion)
    stack = torch.stack([outputs, 2 * outputs, -outputs])
    losses = vmap(criterion, in_dims=(0, None))(stack, targets)
    expected = torch.stack([criterion(one, targets) for one in stack])
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("criterion", ALL, ids=name)
def test_losses_keep_the_type_and_example_by_example_they_are_the_same(criterion, dtype):
    outputs, targets = draw(criterion, dtype)
    losses = criterion(outputs, targets)
    assert losses.dtype == dtype
    alone = [criterion(outputs[i : i + 1], targets[i : i + 1]) for i in range(B)]
    torch.testing.assert_close(losses, torch.cat(alone))


@pytest.mark.parametrize("criterion", ALL, ids=name)
def test_extreme_outputs_stay_finite(criterion):
    outputs, targets = draw(criterion, torch.float32)
    outputs = (outputs * 1e4).requires_grad_()
    losses = criterion(outputs, targets)
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()


def test_only_nll_wants_log_probabilities():
    assert [type(c) for c in ALL if c.wants_log_probabilities] == [NLL]


@pytest.mark.parametrize("criterion", ALL, ids=name)
def test_unequal_shapes_are_refused_not_broadcast(criterion):
    outputs, targets = draw(criterion)
    column = targets.reshape(B, -1)[:, :1]
    for wrong_outputs, wrong_targets in [
        (outputs, column),
        (outputs[:, :1], targets if criterion.targets == "values" else column),
        (outputs[:, 0], column),
        (outputs[:, 0], column[:, 0]),
        (outputs, targets[:1]),
    ]:
        with pytest.raises(ValueError, match=f"^{type(criterion).__name__} takes outputs .* and targets .*, got"):
            criterion(wrong_outputs, wrong_targets)


@pytest.mark.parametrize("criterion", ALL, ids=name)
def test_targets_of_the_other_kind_are_refused(criterion):
    outputs, targets = draw(criterion)
    other = targets.double() if criterion.targets == "classes" else targets.long()
    with pytest.raises(ValueError, match=f"^{type(criterion).__name__} takes .* as targets, got torch."):
        criterion(outputs, other)


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        (CrossEntropy, {"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0"),
        (CrossEntropy, {"label_smoothing": -0.1}, "label_smoothing must be at least 0 and below 1, got -0.1"),
        (CrossEntropy, {"label_smoothing": math.nan}, "label_smoothing must be at least 0 and below 1, got nan"),
        (MultiMargin, {"margin": 0}, "margin must be positive and finite, got 0"),
        (MultiMargin, {"margin": math.inf}, "margin must be positive and finite, got inf"),
        (MultiMargin, {"p": 3}, "p must be 1 or 2, got 3"),
    ],
)
def test_bad_arguments_get_one_sentence(criterion, options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole message is compared)
        criterion(**options)
    assert str(error.value) == message
