"""Kinds of network that people have, in float64, against naive loops: attention, recurrence, skips, two inputs."""

from collections.abc import Callable

import pytest
import torch
from loops import differences
from torch import Tensor, nn

from losses import Jacobian, TangentProp

pytestmark = pytest.mark.sample


class TransformerClassifier(nn.Module):
    """Two encoder layers of attention over 6 places of 8 numbers, pre-norm, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class RecurrentClassifier(nn.Module):
    """Two layers, both directions, the last state."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cells = kind(8, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class UNet(nn.Module):
    """One step down and up with a skip, group norm, transposed convolution; a class by the mean of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        return self.last(torch.cat((skip, self.up(self.down(skip))), 1)).mean((2, 3))


class TwoInputs(nn.Module):
    """An image and a vector, mixed by a product."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector, self.head = nn.Conv2d(1, 4, 3), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return self.head(self.image(image).tanh().mean((2, 3)) * self.vector(vector).sigmoid())


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], str]] = {
    "Transformer encoder": (TransformerClassifier, ((6, 8),), "inputs"),
    "LSTM": (lambda: RecurrentClassifier(nn.LSTM), ((6, 8),), "inputs"),
    "GRU": (lambda: RecurrentClassifier(nn.GRU), ((6, 8),), "inputs"),
    "U-Net": (UNet, ((2, 8, 8),), "inputs"),
    "two inputs, by the first": (TwoInputs, ((1, 6, 6), (5,)), "inputs.0"),
    "two inputs, by the second": (TwoInputs, ((1, 6, 6), (5,)), "inputs.1"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_and_tangents(kind: str, judged: Callable[..., None]) -> None:
    make, shapes, at = KINDS[kind]
    torch.manual_seed(0)
    model = make().double()
    several = tuple(torch.randn(4, *shape, dtype=torch.float64) for shape in shapes)
    x = several if len(several) > 1 else several[0]
    tangent = several[int(at.partition(".")[2] or 0)].cos()
    seen = differences(model, x, Jacobian(projections=None, at=at), None)
    judged("Jacobian, exact", "naive loop", kind, *seen)
    seen = differences(model, x, TangentProp(tangents=lambda x: tangent[None], at=at), tangent)
    judged("tangent prop", "naive loop", kind, *seen)
