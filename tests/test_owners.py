"""Whose is a parameter, a mode, a weight: by the owner, on networks that are not ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from losses import L1, L2, CrossEntropy, EagerForward, ElasticNet, FunctionalForward, WeightGradient, weights_of
from models.init import KaimingNormal, Normal
from models.init import Orthogonal as OrthogonalInit
from runner.config.compose import project_composer
from runner.results import load_model
from runner.training.build import build_network

Command = Callable[..., CompletedProcess[str]]


class Scaled(nn.Module):
    """A user's layer: a linear map of one input, a layer scale, a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift_bias = nn.Parameter(torch.ones(5, 1)), nn.Parameter(torch.ones(5, 5))
        self.layer_scale, self.positions = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(1, 7, 3))


class RMSNorm2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, 4))


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        (nn.Linear(1, 5), {"weight"}),
        (nn.Conv2d(3, 4, 3), {"weight"}),
        (nn.LayerNorm((4, 6, 6)), set()),
        (nn.BatchNorm2d(3), set()),
        (nn.GroupNorm(1, 3), set()),
        (RMSNorm2d(), set()),
        (Scaled(), {"weight", "positions"}),
        (nn.PReLU(5), set()),
        (nn.Embedding(4, 3), {"weight"}),
        (nn.Bilinear(2, 3, 4), {"weight"}),
        (nn.LSTM(3, 4), {"weight_ih_l0", "weight_hh_l0"}),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_weight", "out_proj.weight"}),
        (parametrizations.weight_norm(nn.Conv2d(4, 2, 3)), {"parametrizations.weight.original1"}),
        (parametrizations.weight_norm(nn.Linear(3, 1)), {"parametrizations.weight.original1"}),
        (parametrizations.spectral_norm(nn.Linear(3, 4)), {"parametrizations.weight.original"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_are_what_a_layer_multiplies_by(layer: nn.Module, weights: set[str]) -> None:
    model = nn.Sequential(layer, layer)  # tied: each once
    named = {name.removeprefix("0."): param for name, param in model.named_parameters()}
    assert [name for name, param in named.items() if any(param is one for one in weights_of(model))] == [
        name for name in named if name in weights
    ]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_the_old_weight_norm() -> None:
    (weight,) = weights_of(model := nn.utils.weight_norm(nn.Linear(3, 4)))
    assert weight is model.weight_v


@pytest.mark.parametrize("model", ["mnist_convnet", "mlp", "convnet", "cifar10_convnet", "large_margin_convnet"])
def test_of_our_models_it_is_what_has_two_dimensions(model: str) -> None:
    config = project_composer().compose([f"model={model}"]).values
    shape = (3, 32, 32) if model == "cifar10_convnet" else (1, 28, 28)
    network = build_network(config, shape, 10, torch.device("cpu"))
    assert [id(param) for param in weights_of(network)] == [id(p) for p in network.parameters() if p.dim() > 1]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.scale, self.head = nn.Linear(6, 4), nn.Parameter(torch.rand(1, 4)), nn.Linear(4, 3)
        self.norm = nn.LayerNorm((1, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm((self.first(inputs) * self.scale)[:, None])[:, 0])


@pytest.mark.parametrize("penalty", [L2(biases=False), L1(biases=False), ElasticNet(biases=False)])
def test_penalties_leave_gains_alone(penalty: L1 | L2 | ElasticNet) -> None:
    model, x, y = Net(), torch.randn(4, 6), torch.arange(4) % 3
    weights = [model.first.weight, model.head.weight]
    kinds = {L2: lambda w: w.square(), L1: torch.abs, ElasticNet: lambda w: 1e-5 * w.abs() + 1e-3 * w.square()}
    right = sum(kinds[type(penalty)](w).sum() for w in weights)
    torch.testing.assert_close(penalty(EagerForward(model, CrossEntropy(), x, y, [penalty])), right)
    params = dict(model.named_parameters())
    torch.testing.assert_close(penalty(FunctionalForward(model, params, CrossEntropy(), x, y, [penalty])), right)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    penalty.prox_(model.parameters(), 0.1, 0.1)
    moved = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    assert moved == (set() if isinstance(penalty, L2) else {"first.weight", "head.weight"})


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.head = nn.Parameter(torch.randn(4, dtype=torch.cfloat)), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.fft.irfft(torch.fft.rfft(inputs) * self.weight, n=6)))


def test_complex_weights_count_by_their_size() -> None:
    model, x, y = Fourier(), torch.randn(4, 6), torch.arange(4) % 3
    grads = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    for penalty, right in (
        (L2(), sum(p.abs().square().sum() for p in model.parameters())),
        (L1(), sum(p.abs().sum() for p in model.parameters())),
        (WeightGradient(), sum(g.abs().square().sum() for g in grads)),
    ):
        value = penalty(EagerForward(model, CrossEntropy(), x, y, [penalty]))
        assert not value.is_complex()
        torch.testing.assert_close(value, right)


@pytest.mark.parametrize("penalty", [L1(), ElasticNet(l1=1, l2=0)])
def test_the_proximal_step_shrinks_the_size_of_complex_weights(penalty: L1 | ElasticNet) -> None:
    weight = nn.Parameter(torch.tensor([3 + 4j, 0.03 + 0.04j, 0j]))
    penalty.prox_([weight], 0.1, 0.1)
    torch.testing.assert_close(weight.detach(), torch.tensor([(3 + 4j) * 4.9 / 5, 0j, 0j]))


def test_an_initialisation_reaches_the_layer_under_a_parametrisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(784, 50)), nn.ReLU())
    for init, deviation in ((Normal(std=0.5), 0.5), (KaimingNormal(), (2 / 784) ** 0.5)):
        init(model)
        assert model[0].weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert not model[0].bias.any()
    orthogonal = nn.Sequential(parametrizations.orthogonal(nn.Linear(20, 20)), nn.ReLU())
    OrthogonalInit(gain=1.0)(orthogonal)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, parametrizations.orthogonal, nn.utils.weight_norm])
def test_an_initialisation_that_would_have_no_effect_is_a_sentence(norm: Callable) -> None:
    with pytest.raises(
        ValueError, match=r"^init must be torch for a layer such as 0, whose weight .*: add init=torch$"
    ):
        Normal(std=0.5)(nn.Sequential(norm(nn.Linear(8, 8))))


# --- in runs ---

PACKAGE = """
import torch
from torch import nn

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

class Pretrained(nn.Module):
    '''A trunk whose batch norm its owner has put into evaluation mode, for good.'''
    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8)), nn.Linear(8, 10)
        self.trunk[2].running_mean.fill_(0.5)
        self.trunk[2].eval()

    def forward(self, images):
        return self.head(self.trunk(images).tanh())
"""
SMALL = ("data.train_size=40", "data.validation_size=0", "histograms=false", "pictures=false", "device=cpu")
OWN = (*SMALL, "epochs=1", "allow_targets=[mine]", "model=module")


@pytest.fixture
def own(command: Command, tmp_path: Path) -> Callable[..., list[Path]]:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(PACKAGE)

    def trained(name: str, *words: str) -> list[Path]:
        done = command(*words[:1] * (words[:1] == ("-m",)), *OWN, f"model.network={{_target_: mine.{name}}}", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted((tmp_path / "runs").rglob("result.json"))

    return trained


def test_lazy_layers_have_the_weights_of_the_seed(own: Callable[..., list[Path]]) -> None:
    config = "optimizer.lr=1e-30"  # so that the weights at the end are those at the beginning
    first = own("lazy", config, "runs_dir=runs/a")
    again = [path for path in own("lazy", config, "runs_dir=runs/b") if path not in first]
    other = [path for path in own("lazy", config, "seed=1") if path not in (*first, *again)]
    digests = [json.loads(path.read_text())["weights_sha256"] for path in (*first, *again, *other)]
    assert digests[0] == digests[1] != digests[2]


def test_batch_norm_in_evaluation_mode_stays_so_and_no_penalty_is_refused(
    own: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)  # another test's
    (path,) = own("Pretrained", "penalty=jacobian")
    norm = load_model(path.parent, allow_targets=["mine"]).network.trunk[2]
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.full((8,), 0.5))
    del sys.modules["mine"]
