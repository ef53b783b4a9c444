"""Networks of torchvision's, in float64 and evaluation mode where batch norm would mix: ours against naive loops."""

import random
from collections.abc import Callable

import pytest
import torch
import torchvision
from loops import differences
from torch import nn

from losses import CrossEntropy, Jacobian, TangentProp, verify

CLASSIFIERS = [
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if not name.startswith(("inception", "googlenet", "regnet", "vit", "swin", "maxvit", "densenet", "efficientnet"))
    and not any(word in name for word in ("large", "base", "152", "101", "wide", "vgg16", "vgg19"))  # they take minutes
]
TWENTY = random.Random(0).sample(CLASSIFIERS, min(20, len(CLASSIFIERS)))
LIGHT = [name for name in TWENTY if not name.startswith("vgg")][:10]
CLOSE = 1e-10


def network(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=3, **options).double().eval()


@pytest.mark.sample
@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16"])
def test_layer_norms_and_attention(name: str, judged: Callable[..., None]) -> None:
    """Tangents through a network of layer norms; Jacobians through one of attention."""
    model = network(name, **({"image_size": 32} if name == "vit_b_16" else {}))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    penalty = TangentProp(tangents=lambda x: x.flip(-1)[None])
    if name == "convnext_tiny":
        seen = differences(model, x, penalty, x.flip(-1))
    else:
        seen = differences(model, x, Jacobian(projections=None), None)
    judged("torchvision, 32 pixels", "naive loop", name, *seen)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.sample if name == "squeezenet1_1" else ()) for name in TWENTY]
)
def test_twenty_drawn_by_a_seed(name: str, judged: Callable[..., None]) -> None:
    model = network(name)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for penalty, tangent in (
        (Jacobian(projections=None), None),
        (TangentProp(tangents=lambda x: x.flip(-1)[None]), x.flip(-1)),
    ):
        seen = differences(model, x, penalty, tangent)
        judged("torchvision, 64 pixels", "naive loop", name, *seen, tolerance=CLOSE)


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("seed", range(20))
def test_verify_refuses_no_sound_classifier(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = torchvision.models.get_model(name, num_classes=3).eval()
    x = torch.randn(4, 3, 64, 64)
    verify(model, CrossEntropy(), x, torch.arange(4) % 3, [Jacobian(), TangentProp(tangents=lambda x: x[None])])
