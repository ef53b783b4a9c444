"""Penalised objectives as they are usually written; `benchmark.py penalties` compares ours with them.

Each is the mean cross-entropy plus 0.01 times a penalty, for a model and a batch. All are correct, except where the
docstring says otherwise.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]  # model, inputs, targets -> scalar
WEIGHT = 0.01


def published_jacobian(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the objective of Hoffman et al.'s public code: the loss and the penalty share one forward pass."""
    inputs = inputs.detach().requires_grad_()
    outputs = model(inputs)
    return cross_entropy(outputs, targets) + WEIGHT * sphere_projection(inputs, outputs)


def own_pass_jacobian(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    tracked = inputs.detach().requires_grad_()
    return cross_entropy(model(inputs), targets) + WEIGHT * sphere_projection(tracked, model(tracked))


def sphere_projection(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return an estimate of half the squared Frobenius norm of the Jacobian, from one direction for each example."""
    batch, classes = outputs.shape
    direction = torch.randn(batch, classes, device=outputs.device)
    direction = direction / direction.norm(dim=1, keepdim=True)
    (product,) = torch.autograd.grad(
        outputs.reshape(-1), inputs, direction.reshape(-1), retain_graph=True, create_graph=True
    )
    return 0.5 * classes * product.norm() ** 2 / batch


def mapped_jacobian(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the objective with the exact Jacobian from `torch.func`: jacrev of one example, mapped over the batch."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: model(x.unsqueeze(0)).squeeze(0)))(inputs)
    return cross_entropy(model(inputs), targets) + WEIGHT * jacobian.square().sum() / len(inputs)


def own_pass_input_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the objective of double backpropagation, with a second forward pass for the penalty."""
    tracked = inputs.detach().requires_grad_()
    losses = cross_entropy(model(tracked), targets, reduction="sum")
    (gradient,) = torch.autograd.grad(losses, tracked, create_graph=True)
    return cross_entropy(model(inputs), targets) + WEIGHT * gradient.square().sum() / len(inputs)


def own_pass_activation_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the objective with the gradients of each example's loss by activations, from a second forward pass."""
    activations, values = [], inputs
    for name, module in model.named_children():
        values = module(values)
        if name in ("relu1", "relu2"):
            activations.append(values)
    gradients = torch.autograd.grad(cross_entropy(values, targets, reduction="sum"), activations, create_graph=True)
    squares = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    return cross_entropy(model(inputs), targets) + WEIGHT * squares / len(inputs)


def tangents_one_by_one(tangents: Callable[[Tensor], Tensor]) -> Objective:
    """Return Tangent Prop with one forward-mode pass for each tangent, besides the pass of the data loss."""

    def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        products = [torch.func.jvp(model, (inputs,), (tangent,))[1] for tangent in tangents(inputs)]
        squares = torch.stack([product.square().sum() for product in products]).sum()
        return cross_entropy(model(inputs), targets) + WEIGHT * squares / len(inputs)

    return objective


def tangents_by_rows(tangents: Callable[[Tensor], Tensor]) -> Objective:
    """Return Tangent Prop from the whole Jacobian: one vector-Jacobian product for each output."""

    def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        directions = tangents(inputs).flatten(2)
        inputs = inputs.detach().requires_grad_()
        outputs = model(inputs)
        terms = []
        for output in outputs.unbind(1):
            (row,) = torch.autograd.grad(output.sum(), inputs, create_graph=True)
            terms.append(torch.einsum("bd,kbd->kb", row.flatten(1), directions).square().sum())
        return cross_entropy(outputs, targets) + WEIGHT * torch.stack(terms).sum() / len(inputs)

    return objective


def question_large_margin(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the objective of the forum question's loop: a backward pass for each example and each wrong class.

    It is wrong, as in the question: each pass adds the gradient of its gap to the gradients of the parameters.
    Source: discuss.pytorch.org/t/43047.
    """
    inputs = inputs.detach().requires_grad_()
    outputs = model(inputs)
    scores, hinges = outputs.softmax(1), torch.zeros(())
    for example, target in enumerate(targets.tolist()):
        for wrong in set(range(outputs.shape[1])) - {target}:
            inputs.grad = None
            gap = scores[example, target] - scores[example, wrong]
            gap.backward(retain_graph=True)
            distance = gap / (1e-6 + inputs.grad[example].abs().sum())  # type: ignore[index]
            hinges = hinges + (10 - distance).clamp(0, 40)
    return cross_entropy(outputs, targets) + WEIGHT * hinges / len(inputs)
