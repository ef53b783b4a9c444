"""Networks of torchvision's, in float64 and evaluation mode where batch norm would mix: ours against naive loops."""

import random

import pytest
import torch
import torchvision
from support import zoo
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from losses import CrossEntropy, EagerForward, Jacobian, Penalty, TangentProp, verify

CLASSIFIERS = [
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if not name.startswith(("inception", "googlenet", "regnet", "vit", "swin", "maxvit", "densenet", "efficientnet"))
    and not any(word in name for word in ("large", "base", "152", "101", "wide", "vgg16", "vgg19"))  # they take minutes
]
TWENTY = random.Random(0).sample(CLASSIFIERS, min(20, len(CLASSIFIERS)))
LIGHT = [name for name in TWENTY if not name.startswith("vgg")][:10]


def network(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=3, **options).double().eval()


def compared(model: nn.Module, x: Tensor, penalty: Penalty, tangent: Tensor | None) -> tuple[float, float]:
    """Return the differences of value and gradient from loops over examples and outputs."""
    y = torch.arange(len(x)) % 3
    value = penalty(EagerForward(model, CrossEntropy(), x, y, [penalty])).mean()
    inputs = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        outputs = model(inputs)
    rows = []
    for n in range(len(outputs)):
        for c in range(outputs.shape[1]):
            (row,) = torch.autograd.grad(outputs[n, c], inputs, create_graph=True)
            rows.append(row[n].flatten())
    jacobian = torch.stack(rows).view(*outputs.shape, -1)
    products = jacobian if tangent is None else torch.einsum("bcd,bd->bc", jacobian, tangent.flatten(1))
    wanted = products.square().sum() / len(x)
    return zoo.difference([value], [wanted]), zoo.difference(zoo.gradients(value, model), zoo.gradients(wanted, model))


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16"])
def test_the_two_of_the_issue(name: str) -> None:
    """Tangents through a network of layer norms; Jacobians through one of attention."""
    model = network(name, **({"image_size": 32} if name == "vit_b_16" else {}))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    penalty = TangentProp(tangents=lambda x: x.flip(-1)[None])
    tangent = x.flip(-1) if name == "convnext_tiny" else None
    value, gradient = compared(model, x, penalty if name == "convnext_tiny" else Jacobian(projections=None), tangent)
    print(f"{name}: {value:.2g} in value, {gradient:.2g} in gradient")
    assert max(value, gradient) < 1e-10


@pytest.mark.parametrize("name", TWENTY)
def test_twenty_drawn_by_a_seed(name: str) -> None:
    model = network(name)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for penalty, tangent in (
        (Jacobian(projections=None), None),
        (TangentProp(tangents=lambda x: x.flip(-1)[None]), x.flip(-1)),
    ):
        value, gradient = compared(model, x, penalty, tangent)
        print(f"{name}: {value:.2g} in value, {gradient:.2g} in gradient")
        assert max(value, gradient) < 1e-9


@pytest.mark.parametrize("name", LIGHT)
def test_verify_refuses_no_sound_classifier(name: str) -> None:
    model = network(name).float()
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    verify(model, CrossEntropy(), x, torch.arange(4) % 3, [Jacobian(), TangentProp(tangents=lambda x: x[None])])
