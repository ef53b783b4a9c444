"""The mistakes of the forum questions, kept alive: each in the smallest code that makes it, ours beside it.

`docs/mistakes.md` tells the same in words.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import (
    L2,
    ActivationGradient,
    EagerForward,
    InputGradient,
    Jacobian,
    LargeMargin,
    Penalty,
    TangentProp,
    WeightGradient,
)
from losses.criterion import CrossEntropy, SumOfSquares

BATCH, CLASSES = 8, 4


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(fc1=nn.Linear(6, 10), relu1=nn.ReLU(), fc2=nn.Linear(10, 7), relu2=nn.ReLU())
    return nn.Sequential(layers | {"fc3": nn.Linear(7, CLASSES)}).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(BATCH, 6, dtype=torch.float64), torch.randint(CLASSES, (BATCH,))


def value_of(penalty: Penalty, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return penalty(EagerForward(model, CrossEntropy(), inputs, targets, [penalty])).mean()


def gradient_of(value: Tensor, model: nn.Module) -> Tensor:
    """The derivative by all parameters, as one vector."""
    gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def stored_gradient(model: nn.Module) -> Tensor:
    """What `.grad` holds, as one vector: what an optimizer would follow."""
    return torch.cat([param.grad.flatten() for param in model.parameters()])


def wrong_classes(targets: Tensor) -> Tensor:
    return torch.stack([torch.arange(CLASSES)[torch.arange(CLASSES) != target] for target in targets])


# 1. "Implementation of Large Margin Deep Networks for Classification": `.backward()` inside the loss


def question_large_margin(model: nn.Module, inputs: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """The question's loss: a backward call for each example and wrong class, for its norm at the input."""
    inputs = inputs.clone().requires_grad_()
    probabilities = model(inputs).softmax(1)
    gaps = probabilities.gather(1, targets[:, None]) - probabilities.gather(1, wrong_classes(targets))
    norms = torch.empty_like(gaps)
    for n in range(len(inputs)):
        for k in range(CLASSES - 1):
            gaps[n, k].backward(retain_graph=True)  # the mistake: it also fills the parameters' .grad
            norms[n, k] = inputs.grad.data.norm()
            inputs.grad.data.zero_()
    distances = (gaps / (1e-6 + norms.detach())).mean(1)
    return (gamma - distances.clamp(gamma * (1 - alpha), gamma)).mean()


def our_large_margin(model: nn.Module, inputs: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """The same loss from three vector-Jacobian products, which leave `.grad` alone."""
    options = {"scores": "probability", "top_k": CLASSES - 1, "aggregation": "mean_distance", "eps": 1e-6}
    options |= {"norm": 2, "differentiate_norm": False}
    return value_of(LargeMargin(gamma=gamma, alpha=alpha, **options), model, inputs, targets)


def test_stray_gradients(model, batch):
    inputs, targets = batch
    question = question_large_margin(model, inputs, targets, gamma=10.0, alpha=4.0)
    question.backward(retain_graph=True)
    followed = stored_gradient(model)

    model.zero_grad()
    ours = our_large_margin(model, inputs, targets, gamma=10.0, alpha=4.0)
    ours.backward(inputs=list(model.parameters()))
    right = stored_gradient(model)

    probabilities = model(inputs).softmax(1)
    gaps = probabilities.gather(1, targets[:, None]) - probabilities.gather(1, wrong_classes(targets))
    stray = gradient_of(gaps.sum(), model)
    torch.testing.assert_close(question, ours)  # the value is right, so is its `.data`: the norm is held constant
    torch.testing.assert_close(gradient_of(question, model), right)
    torch.testing.assert_close(followed, right + stray)
    # The gaps of an example sum to C p - 1, p the probability of its class: the loop also lowers C times the sum of p.
    own = probabilities.gather(1, targets[:, None])
    torch.testing.assert_close(stray, gradient_of(CLASSES * own.sum(), model))
    assert stray.norm() > 0.5 * right.norm()
    # Descent along the gaps' own gradient makes them smaller: training towards the wrong classes.
    assert stray @ right < 0


def test_training_with_stray_gradients(model, batch):
    """The same loss, the same steps: ours learns the labels, the question's loop unlearns them."""
    accuracies = []
    for loss in (question_large_margin, our_large_margin):
        trained = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            loss(trained, *batch, gamma=50.0, alpha=4.0).backward(inputs=list(trained.parameters()))
            optimizer.step()
        accuracies.append((trained(batch[0]).argmax(1) == batch[1]).double().mean().item())
    assert accuracies[0] < 0.5
    assert accuracies[1] > 0.8


# 2. and 3. "How to penalize norm of end-to-end Jacobian"


def test_column_sums_are_not_the_jacobian(model, batch):
    def question(inputs: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_()
        outputs = model(inputs)
        (gradient,) = torch.autograd.grad(outputs, inputs, grad_outputs=torch.ones_like(outputs), create_graph=True)
        return gradient.square().sum() / len(inputs)

    inputs, targets = batch
    jacobians = torch.stack([torch.func.jacrev(model)(example) for example in inputs])  # (B, C, D)
    torch.testing.assert_close(question(inputs), jacobians.sum(1).square().sum() / BATCH)
    ours = Jacobian(projections=None)
    torch.testing.assert_close(value_of(ours, model, *batch), jacobians.square().sum() / BATCH)

    with torch.no_grad():  # softmax does not see a shift of all logits, and the sums see nothing else
        model.fc3.weight -= model.fc3.weight.mean(0)
    assert question(inputs) < 1e-25
    assert value_of(ours, model, inputs, targets) > 0.01


@pytest.mark.parametrize("mistake", ["no create_graph", ".data", ".item()"])
def test_a_penalty_without_a_graph_has_no_effect(model, batch, mistake):
    inputs, targets = batch

    def question() -> Tensor | float:
        tracked = inputs.clone().requires_grad_()
        loss = F.cross_entropy(model(tracked), targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, tracked, create_graph=mistake != "no create_graph")
        value = (gradient.data if mistake == ".data" else gradient).square().sum() / BATCH
        return value.item() if mistake == ".item()" else value

    def loss() -> Tensor:
        return F.cross_entropy(model(inputs), targets)

    ours = value_of(InputGradient(), model, *batch)
    torch.testing.assert_close(torch.as_tensor(question()).double(), ours)  # reported, and right
    plain = gradient_of(loss(), model)
    assert torch.equal(gradient_of(loss() + 10 * question(), model), plain)  # never trained on
    assert (gradient_of(loss() + 10 * ours, model) - plain).norm() > 0.1 * plain.norm()


# 4. "Activation gradient penalty": the gradients of the mean loss


def question_activation_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    relu1 = model[:2](inputs)
    relu2 = model[2:4](relu1)
    loss = F.cross_entropy(model.fc3(relu2), targets)  # the mistake: the mean over the batch
    gradients = torch.autograd.grad(loss, [relu1, relu2], create_graph=True)
    return sum(gradient.square().sum() for gradient in gradients)


def test_one_over_batch(model, batch):
    layers = ["relu1", "relu2"]
    question = question_activation_gradient(model, *batch)
    ours = value_of(ActivationGradient(layers=layers), model, *batch)
    torch.testing.assert_close(question, ours / BATCH)
    torch.testing.assert_close(gradient_of(question, model), gradient_of(ours, model) / BATCH)
    torch.testing.assert_close(question, value_of(ActivationGradient(layers=layers, reduction="batch"), model, *batch))

    # The same examples ten times over: nothing new, but the question's penalty all but goes.
    repeated = [part.repeat(10, *[1] * (part.ndim - 1)) for part in batch]
    torch.testing.assert_close(question_activation_gradient(model, *repeated), question / 10)
    torch.testing.assert_close(value_of(ActivationGradient(layers=layers), model, *repeated), ours)
    # A weight is shared by all examples, so its gradient has no such factor: "for weights it works well".
    weights = [value_of(WeightGradient(), model, *examples) for examples in (batch, repeated)]
    torch.testing.assert_close(*weights)


# 5. "Implementing Tangent Prop": a piecewise linear net cannot make plateaus

POINTS = torch.linspace(0, 1, 5)[:, None]
WEIGHT = 0.1
RIDGE = 0.625 / (0.625 + WEIGHT * 5)  # Sxx / (Sxx + weight * n), the best straight line: 0.5556


def slopes_on_the_line(activation: Callable[[], nn.Module], lr: float, steps: int) -> Tensor:
    """Train the question's net on its points; return the slopes at 41 places from 0 to 1, every tenth a point."""
    torch.manual_seed(0)
    hidden = (nn.Linear(1, 100), activation(), nn.Linear(100, 100), activation())
    model = nn.Sequential(*hidden, nn.Linear(100, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    penalty = TangentProp(tangents=lambda inputs: torch.ones_like(inputs)[None])
    for _ in range(steps):
        forward = EagerForward(model, SumOfSquares(), POINTS, POINTS, [penalty])
        objective = forward.losses.mean() + WEIGHT * penalty(forward).mean()
        optimizer.zero_grad()
        objective.backward(inputs=list(forward.params.values()))
        optimizer.step()
    places = torch.linspace(0, 1, 41)[:, None].requires_grad_()
    return torch.autograd.grad(model(places).sum(), places)[0].squeeze(1)


def test_a_relu_net_stays_a_straight_line():
    """Wherever it started, it ends at the ridge slope, at the points and between them alike."""
    slopes = slopes_on_the_line(nn.ReLU, lr=1e-3, steps=1200)
    assert pytest.approx(0.5556, abs=1e-4) == RIDGE
    torch.testing.assert_close(slopes, torch.full_like(slopes, RIDGE), rtol=0, atol=0.01)


def test_a_tanh_net_makes_plateaus():
    slopes = slopes_on_the_line(nn.Tanh, lr=3e-3, steps=1200)
    assert slopes[::10].abs().max() < 0.05
    assert min(slopes[start : start + 10].max() for start in (0, 10, 20, 30)) > 1.2


# 6. The collapse of the large margin


def collapsed(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    """The state in which stray gradients leave a net: very sure, and of a wrong class each time."""
    with torch.no_grad():
        model.fc3.weight *= 1e5
        model.fc3.bias *= 1e5
    return model, model(inputs).argmin(1)


def test_saturated_probabilities_give_no_gradient(model, batch):
    """All examples are at the lower clamp, the loss at its ceiling, and nothing can move."""
    model, targets = collapsed(model, batch[0])
    penalty = LargeMargin(scores="probability", norm=2, gamma=50.0, alpha=4.0, differentiate_norm=False)
    value = value_of(penalty, model, batch[0], targets)
    assert value == 200  # alpha * gamma: where the question's loss sat
    assert gradient_of(value, model).count_nonzero() == 0
    assert penalty.statistics() == {"at_lower_clamp": 1, "at_upper_clamp": 0}  # what tells it in the record


def test_logits_give_gradient_again(model, batch):
    """Gap and derivative grow alike, so the distance is that of the unsaturated net, and training goes on."""
    options = {"norm": 2, "gamma": 50.0, "alpha": 4.0, "scores": "logit", "differentiate_norm": False}
    calm = value_of(LargeMargin(**options), model, batch[0], model(batch[0]).argmin(1))
    model, targets = collapsed(model, batch[0])
    penalty = LargeMargin(**options)
    value = value_of(penalty, model, batch[0], targets)
    assert value < 100
    torch.testing.assert_close(value, calm, rtol=1e-4, atol=0)
    assert gradient_of(value, model).norm() > 0.01
    assert penalty.statistics()["at_lower_clamp"] == 0

    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    errors = []
    for _ in range(150):
        forward = EagerForward(model, CrossEntropy(), batch[0], targets, [penalty])
        errors.append((forward.outputs.argmax(1) != targets).double().mean().item())
        optimizer.zero_grad()
        penalty(forward).mean().backward(inputs=list(model.parameters()))
        optimizer.step()
    assert errors[0] == 1
    assert errors[-1] == 0


def test_a_share_of_cross_entropy_gives_gradient_again(model, batch):
    model, targets = collapsed(model, batch[0])
    penalty = LargeMargin(scores="probability", norm=2, gamma=50.0, alpha=4.0, differentiate_norm=False)
    forward = EagerForward(model, CrossEntropy(), batch[0], targets, [penalty])
    objective = 0.1 * forward.losses.mean() + penalty(forward).mean()
    assert gradient_of(objective, model).norm() > 0.01


# 7. "Activation gradient penalty", and its answer: what `only_inputs` and `.grad` do


def loss_and_activation(model: nn.Module, inputs: Tensor, targets: Tensor, retain: bool) -> tuple[Tensor, Tensor]:
    """The question's pass: the loss, and an activation whose gradient is kept if `retain`."""
    relu1 = model[:2](inputs)
    if retain:
        relu1.retain_grad()
    return F.cross_entropy(model[2:](relu1), targets), relu1


def test_grad_adds_to_no_leaf_whatever_only_inputs_says(model, batch):
    inputs, targets = batch[0].clone().requires_grad_(), batch[1]
    loss, relu1 = loss_and_activation(model, inputs, targets, retain=False)
    leaves = [inputs, *model.parameters()]
    (taken,) = torch.autograd.grad(loss, relu1, create_graph=True)  # only_inputs=True
    with pytest.warns(FutureWarning, match="only_inputs argument is deprecated and is ignored"):
        (also_taken,) = torch.autograd.grad(loss, relu1, create_graph=True, only_inputs=False)
    assert torch.equal(taken, also_taken)
    assert all(leaf.grad is None for leaf in leaves)

    loss.backward(inputs=list(model.parameters()), retain_graph=True)  # as our loop does
    assert inputs.grad is None
    loss.backward()
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("by", ["grad", "backward of leaves"])
def test_what_passes_through_a_tensor_that_retains_is_added_to_it(model, batch, by):
    loss, relu1 = loss_and_activation(model, *batch, retain=True)
    for count in (1, 2):
        if by == "grad":
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        else:
            loss.backward(inputs=list(model.parameters()), retain_graph=True)
        kept = relu1.grad.clone()
        (once,) = torch.autograd.grad(loss, relu1, retain_graph=True)
        torch.testing.assert_close(kept, (2 * count - 1) * once)  # `once` itself was added, too


def test_two_backward_calls_add_up_and_activations_start_anew(model, batch):
    """The machinery of the question is right; what has collected at an activation is gone with the step."""
    loss, relu1 = loss_and_activation(model, *batch, retain=False)
    (of_loss,) = torch.autograd.grad(loss, relu1, create_graph=True)
    (of_penalty,) = torch.autograd.grad(of_loss.square().sum(), relu1, retain_graph=True)
    right = gradient_of(loss + of_loss.square().sum(), model)
    assert of_penalty.norm() > 0
    for _ in range(2):
        model.zero_grad()
        loss, relu1 = loss_and_activation(model, *batch, retain=True)
        assert relu1.grad is None  # also in the second step
        loss.backward(retain_graph=True)
        torch.testing.assert_close(relu1.grad, of_loss)
        (gradient,) = torch.autograd.grad(loss, relu1, create_graph=True)
        gradient.square().sum().backward()
        torch.testing.assert_close(relu1.grad, 2 * of_loss + of_penalty)  # "both change"
        torch.testing.assert_close(stored_gradient(model), right)


def trajectory(zero_grad: bool, lr: float, momentum: float = 0.0, curvature: float = 2.0) -> Tensor:
    """Gradient descent on curvature / 2 * x^2 from x = 1, 1,000 steps."""
    x = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=lr, momentum=momentum)
    places = [1.0]
    for _ in range(1000):
        if zero_grad:
            optimizer.zero_grad()
        (curvature / 2 * x**2).backward()
        optimizer.step()
        places.append(x.item())
    return torch.tensor(places, dtype=torch.float64)


def test_a_loop_without_zero_grad_swings_for_ever():
    forgotten = trajectory(zero_grad=False, lr=0.1)
    torch.testing.assert_close(forgotten, trajectory(zero_grad=True, lr=0.1, momentum=1.0))
    torch.testing.assert_close(forgotten[2:], (2 - 0.1 * 2.0) * forgotten[1:-1] - forgotten[:-2])
    assert forgotten[-100:].max() > 0.9
    assert forgotten[-100:].min() < -0.9
    assert trajectory(zero_grad=True, lr=0.1)[-100:].abs().max() < 1e-9


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_a_penalty_read_from_grad_is_that_of_the_sum_without_zero_grad(model, batch):
    def read(examples: slice) -> Tensor:
        F.cross_entropy(model(batch[0][examples]), batch[1][examples]).backward(create_graph=True)
        return stored_gradient(model).square().sum()

    halves = slice(0, BATCH // 2), slice(BATCH // 2, BATCH)
    gradients = [gradient_of(F.cross_entropy(model(batch[0][half]), batch[1][half]), model) for half in halves]
    torch.testing.assert_close(read(halves[0]), gradients[0].square().sum())
    torch.testing.assert_close(read(halves[1]), (gradients[0] + gradients[1]).square().sum())
    model.zero_grad()
    torch.testing.assert_close(read(halves[1]), gradients[1].square().sum())
    ours = value_of(WeightGradient(), model, *(part[halves[1]] for part in batch))
    torch.testing.assert_close(ours, gradients[1].square().sum())
    model.zero_grad()  # which breaks the cycles of graph and gradient that the warning is about


def test_a_criterion_with_a_mean_is_refused(model, batch):
    """Mistake 4 cannot happen with a criterion of the user's own either."""
    for penalty in (InputGradient(), ActivationGradient(layers=["relu1", "relu2"]), WeightGradient(), L2()):
        for criterion in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")):
            with pytest.raises(ValueError, match=r"must return the loss of each example, \(8,\), got shape \(\)"):
                EagerForward(model, criterion, *batch, [penalty])
        EagerForward(model, nn.CrossEntropyLoss(reduction="none"), *batch, [penalty])
