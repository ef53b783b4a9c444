"""LargeMargin against independent routes: closed forms, numpy by hand, a naive loop over examples."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from losses import EagerForward, FunctionalForward, LargeMargin
from losses.criterion import CrossEntropy
from models import MLP, MNISTConvnet
from runner.config.conf_files import CONF
from runner.training.instantiate import COMMON

LAYERS = ["inputs", "tanh1", "fc2"]
CLASSES = 5


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return MLP(input_shape=(2, 3), outputs=CLASSES, widths=[7, 6], activation="tanh").double()


def batch(size: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 2, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


def value_and_gradient(penalty: LargeMargin, model: nn.Module, inputs: Tensor, targets: Tensor):
    forward = EagerForward(model, CrossEntropy(), inputs, targets, [penalty])
    value = penalty(forward).mean()
    gradients = torch.autograd.grad(value, list(forward.params.values()), materialize_grads=True)
    return value.detach(), dict(zip(forward.params, gradients, strict=True))


# --- the naive loop: one example, one layer, one wrong class at a time; the hinge by its three cases ---


def naive_distances(
    model, inputs, target, layer, *, scores, aggregation, norm, top_k, differentiate_norm, eps
) -> list[Tensor]:
    children = list(model.named_children())
    cut = 0 if layer == "inputs" else 1 + [name for name, _ in children].index(layer)
    head, tail = (nn.Sequential(*(module for _, module in part)) for part in (children[:cut], children[cut:]))
    outputs, hidden = model(inputs[None])[0], head(inputs[None])[0]
    ranked = sorted((-outputs[wrong].item(), wrong) for wrong in range(CLASSES) if wrong != target)

    def gap(activation: Tensor, wrong: int) -> Tensor:
        z = tail(activation[None])[0]
        if scores == "probability":
            z = z.exp() / z.exp().sum()
        elif scores == "log_probability":
            z = z - z.exp().sum().log()
        return z[target] - z[wrong]

    distances = []
    for _, wrong in ranked[:top_k]:
        derivative = torch.func.jacrev(gap)(hidden, wrong).flatten()
        if norm == 1:
            size = derivative.abs().max()
        elif norm == 2:
            size = (derivative * derivative).sum().sqrt()
        else:
            size = derivative.abs().sum() / derivative.numel()
        distances.append(gap(hidden, wrong) / (eps + (size if differentiate_norm else size.detach())))
    if aggregation == "min_distance":
        return [min(distances, key=Tensor.item)]
    return [sum(distances) / top_k] if aggregation == "mean_distance" else distances


def naive_hinge(distance: Tensor, gamma: float, alpha: float) -> Tensor:
    if distance > gamma:
        return 0 * distance
    return alpha * gamma + 0 * distance if gamma - distance > alpha * gamma else gamma - distance


@pytest.mark.parametrize("differentiate_norm", [False, True])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("norm", [1, 2, "inf"])
@pytest.mark.parametrize("aggregation", ["min_distance", "sum_of_hinges", "mean_distance"])
@pytest.mark.parametrize("scores", ["probability", "logit", "log_probability"])
def test_naive_loop(model, scores, aggregation, norm, top_k, differentiate_norm):
    """Every combination, with distances below, between and above the clamps."""
    inputs, targets = batch(4)
    targets[:2] = model(inputs)[:2].argmax(1)
    options = {"scores": scores, "aggregation": aggregation, "norm": norm, "top_k": top_k}
    options |= {"differentiate_norm": differentiate_norm, "eps": 0.01}
    distances = [
        distance
        for layer in LAYERS
        for x, target in zip(inputs, targets.tolist(), strict=True)
        for distance in naive_distances(model, x, target, layer, **options)
    ]
    low, gamma = 0.7 * min(distances).item(), 0.7 * max(distances).item()
    alpha = 1 - low / gamma
    below = sum(distance.item() < low for distance in distances) / len(distances)
    above = sum(distance.item() > gamma for distance in distances) / len(distances)
    assert min(below, above, 1 - below - above) > 0
    expected = sum(naive_hinge(d, gamma, alpha) for d in distances) / (len(LAYERS) * len(inputs))
    by_hand = torch.autograd.grad(expected, list(model.parameters()), materialize_grads=True)

    penalty = LargeMargin(layers=LAYERS, gamma=gamma, alpha=alpha, **options)
    value, gradients = value_and_gradient(penalty, model, inputs, targets)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-12)
    for gradient, right in zip(gradients.values(), by_hand, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-11)
    statistics = {name: fraction.item() for name, fraction in penalty.statistics().items()}
    assert statistics == pytest.approx({"at_lower_clamp": below, "at_upper_clamp": above})


def test_a_distance_exactly_at_an_end_of_the_clip_counts() -> None:
    """Slope and eps of 1, gaps of 2 and -2: distances of 1 and -1, to the last bit."""
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[0.5], [-0.5]], dtype=torch.double)
    inputs, targets = torch.tensor([[2.0], [2.0], [0.0]], dtype=torch.double), torch.tensor([0, 1, 0])
    penalty = LargeMargin(scores="logit", norm=2, gamma=1.0, alpha=2.0, eps=1.0)
    assert value_and_gradient(penalty, model, inputs, targets)[0] == (0 + 2 + 1) / 3
    assert penalty.statistics() == {"at_lower_clamp": pytest.approx(1 / 3), "at_upper_clamp": pytest.approx(1 / 3)}


# --- the public reference, on a net whose derivatives are written by hand in numpy ---


def reference(weights, x, y, *, gamma, alpha, top_k, norm, worst_case, eps) -> tuple[float, list[np.ndarray]]:
    """The reference's value and gradient for relu(x W1) W2 at the inputs and the hidden layer.

    Its conventions: softmax scores; wrong classes by probability, the right one's set to 0; the norm, divided
    by the layer's weight (its size for inf), stopped; per hinge max(0, gamma - max(d, low)) - gamma; sum over
    the classes left, mean over the batch, then over the layers.
    """
    w1, w2 = weights
    h = np.maximum(x @ w1, 0)
    z = h @ w2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    value, d_w1, d_w2 = 0.0, np.zeros_like(w1), np.zeros_like(w2)
    for n in range(len(x)):
        other = p[n] * (np.arange(len(p[n])) != y[n])
        top = np.argsort(-other)[:top_k]
        gaps = p[n, y[n]] - other[top]
        one_hot = np.eye(len(p[n]))
        d_z = np.stack([p[n, y[n]] * (one_hot[y[n]] - p[n]) - p[n, i] * (one_hot[i] - p[n]) for i in top])
        d_h = d_z @ w2.T
        d_x = (d_h * (h[n] > 0)) @ w1.T
        for derivative in (d_x, d_h):
            size = np.linalg.norm(derivative, {1: np.inf, 2: 2, np.inf: 1}[norm], axis=1)
            size /= derivative.shape[1] if norm == np.inf else 1
            distances = gaps / (size + eps)
            kept = [int(np.argmin(distances))] if worst_case else range(top_k)
            for k in kept:
                value += max(0, gamma - max(distances[k], gamma * (1 - alpha))) - gamma
                if gamma * (1 - alpha) < distances[k] < gamma:
                    d_w2 -= np.outer(h[n], d_z[k]) / (size[k] + eps)
                    d_w1 -= np.outer(x[n], d_h[k] * (h[n] > 0)) / (size[k] + eps)
    return value / (2 * len(x)), [d / (2 * len(x)) for d in (d_w1, d_w2)]


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("worst_case", [True, False])
def test_public_reference(norm, top_k, worst_case):
    """Its value up to gamma per hinge, and its gradient."""
    random = np.random.default_rng(0)
    weights = [random.normal(size=size) for size in ((8, 6), (6, 5))]
    x, y = random.normal(size=(20, 8)), random.integers(5, size=20)
    options = {"gamma": 0.8, "alpha": 2.5, "top_k": top_k, "eps": 1e-6}
    theirs = {"scores": "probability", "differentiate_norm": False}
    expected, by_hand = reference(weights, x, y, norm=norm, worst_case=worst_case, **options)

    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False)).double()
    for layer, weight in zip((model[0], model[2]), weights, strict=True):
        layer.weight.data = torch.from_numpy(weight.T.copy())
    aggregation = "min_distance" if worst_case else "sum_of_hinges"
    penalty = LargeMargin(layers=["inputs", "1"], norm=norm, aggregation=aggregation, **theirs, **options)
    value, gradients = value_and_gradient(penalty, model, torch.from_numpy(x), torch.from_numpy(y))
    assert 0 < penalty.statistics()["at_lower_clamp"] < 1
    assert 0 < penalty.statistics()["at_upper_clamp"] < 1
    hinges = 1 if worst_case else top_k
    assert value.item() == pytest.approx(expected + hinges * 0.8, abs=1e-12)
    for gradient, right in zip(gradients.values(), by_hand, strict=True):
        np.testing.assert_allclose(gradient.T.numpy(), right, rtol=1e-9, atol=1e-12)


# --- a linear classifier: the distance is exact ---


@pytest.mark.parametrize("norm", [1, 2, "inf"])
def test_linear_classifier(norm):
    """From x, a step d along the shortest way, of length 1 in the norm, ends on the plane."""
    model = MLP(input_shape=(2, 3), outputs=CLASSES, widths=[]).double()
    inputs, targets = batch(20)
    penalty = LargeMargin(scores="logit", norm=norm, top_k=CLASSES - 1, eps=1e-14)
    forward = EagerForward(model, CrossEntropy(), inputs, targets, [penalty])
    distances = penalty.distances(forward)[0]
    assert distances.shape == (20, CLASSES - 1)
    order = forward.outputs.scatter(1, targets[:, None], -math.inf).argsort(1, descending=True)
    for k in range(CLASSES - 1):
        wrong = order[:, k]
        normal = model.fc1.weight[targets] - model.fc1.weight[wrong]
        distance = distances[:, k, None] / (6 if norm == "inf" else 1)  # the reference's division by the size
        if norm == 1:  # along the greatest component
            way = nn.functional.one_hot(normal.abs().argmax(1), 6) * normal.sign()
        else:
            way = normal.sign() if norm == "inf" else normal / normal.square().sum(1, keepdim=True).sqrt()
        length = torch.linalg.vector_norm(way.double(), float(norm), dim=1)
        torch.testing.assert_close(length, torch.ones_like(length))
        moved = model((inputs.flatten(1) - distance * way).reshape(inputs.shape))
        on_plane = moved.gather(1, targets[:, None]) - moved.gather(1, wrong[:, None])
        assert on_plane.abs().max() < 1e-12


def test_log_probabilities_give_the_distances_of_logits(model):
    inputs, targets = batch()
    values = [
        value_and_gradient(LargeMargin(layers=LAYERS, scores=scores, gamma=2.0), model, inputs, targets)
        for scores in ("logit", "log_probability", "probability")
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-12)
    assert abs(values[0][0] - values[2][0]) > 0.01


# --- what all deterministic penalties owe ---


@pytest.mark.parametrize("differentiate_norm", [False, True])
@pytest.mark.parametrize("scores", ["probability", "logit"])
def test_functional_forward(model, differentiate_norm, scores):
    """The same value and gradient under torch.func, and in a stack of two models; nothing stays wrapped."""
    inputs, targets = batch()
    options = {"top_k": 2, "gamma": 2.0, "aggregation": "mean_distance", "norm": 2, "scores": scores}
    penalty = LargeMargin(layers=LAYERS, differentiate_norm=differentiate_norm, **options)
    value, gradient = value_and_gradient(penalty, model, inputs, targets)
    eager = penalty.statistics()

    def functional(params: dict[str, Tensor]) -> Tensor:
        return penalty(FunctionalForward(model, params, CrossEntropy(), inputs, targets, [penalty])).mean()

    params = {name: param.detach() for name, param in model.named_parameters()}
    gradients, same = torch.func.grad_and_value(functional)(params)
    torch.testing.assert_close(same, value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, gradient, rtol=1e-10, atol=1e-10)
    assert penalty.statistics() == eager
    stack = {name: torch.stack([param, 1.1 * param]) for name, param in params.items()}
    stacked, values = torch.func.vmap(torch.func.grad_and_value(functional))(stack)
    torch.testing.assert_close(values[0], value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close({name: g[0] for name, g in stacked.items()}, gradient, rtol=1e-10, atol=1e-10)
    assert copy.deepcopy(penalty).statistics() == penalty.statistics()


def test_batch_is_a_mean_over_examples(model):
    """In any order, and of examples that do not see each other."""
    inputs, targets = batch(8)
    penalty = LargeMargin(layers=LAYERS, top_k=2, gamma=2.0)
    value, gradient = value_and_gradient(penalty, model, inputs, targets)
    order = torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])
    shuffled = value_and_gradient(penalty, model, inputs[order], targets[order])
    torch.testing.assert_close(shuffled, (value, gradient), rtol=1e-12, atol=1e-13)
    alone = [value_and_gradient(penalty, model, inputs[n : n + 1], targets[n : n + 1])[0] for n in range(8)]
    torch.testing.assert_close(torch.stack(alone).mean(), value)


def test_the_norm_is_held_constant_if_asked_for(model):
    inputs, targets = batch()
    options = {"layers": LAYERS, "gamma": 2.0}
    stopped, constant = value_and_gradient(LargeMargin(**options, differentiate_norm=False), model, inputs, targets)
    exact, flowing = value_and_gradient(LargeMargin(**options, differentiate_norm=True), model, inputs, targets)
    torch.testing.assert_close(stopped, exact)
    difference = constant["fc1.weight"] - flowing["fc1.weight"]
    assert difference.norm() > 0.1 * constant["fc1.weight"].norm()


def test_one_derivative_serves_all_layers(model, monkeypatch):
    """As many vector-Jacobian products as wrong classes, whatever the layers: the cost promised."""
    calls, vjp = [], EagerForward.vjp

    def counted(self: EagerForward, *arguments, **options):
        calls.append(options)
        return vjp(self, *arguments, **options)

    monkeypatch.setattr(EagerForward, "vjp", counted)
    for differentiate_norm in (True, False):
        calls.clear()
        value_and_gradient(LargeMargin(layers=LAYERS, top_k=3, differentiate_norm=differentiate_norm), model, *batch())
        assert [(call["at"], call["create_graph"]) for call in calls] == 3 * [(tuple(LAYERS), differentiate_norm)]


@pytest.mark.parametrize("norm", [1, 2, "inf"])
@pytest.mark.parametrize("differentiate_norm", [False, True])
def test_finite_where_the_derivative_vanishes(norm, differentiate_norm):
    """A dead ReLU net: all derivatives at the inputs are exactly 0."""
    model = MNISTConvnet(input_shape=(1, 28, 28), outputs=10, width=0.1)
    nn.init.constant_(model.fc1.bias, -1e3)
    options = {"norm": norm, "differentiate_norm": differentiate_norm, "gamma": 1.0}
    penalty = LargeMargin(layers=["inputs", "relu1"], **options)
    forward = EagerForward(model, CrossEntropy(), torch.randn(4, 1, 28, 28), torch.arange(4), [penalty])
    value = penalty(forward).mean()
    value.backward(inputs=list(forward.params.values()))
    assert value.isfinite()
    assert all(param.grad.isfinite().all() for param in model.parameters())
    assert sum(penalty.statistics().values()) == 1  # d = gap / eps, beyond either clamp


def test_bf16_autocast_is_near_fp32():
    torch.manual_seed(0)
    model = MNISTConvnet(input_shape=(1, 28, 28), outputs=10, width=0.5)
    inputs, targets = torch.randn(8, 1, 28, 28), torch.arange(8)
    penalty = LargeMargin(layers=["inputs", "relu2"], top_k=2)
    exact = penalty.distances(EagerForward(model, CrossEntropy(), inputs, targets, [penalty]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forward = EagerForward(model, CrossEntropy(), inputs, targets, [penalty])
        rounded = penalty.distances(forward)
        penalty(forward).mean().backward(inputs=list(forward.params.values()))
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(param.grad.isfinite().all() for param in model.parameters())


# --- options ---

LIST_OF_LAYERS = "layers must be a list of 'inputs' and names of layers, each once"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 3}, "norm must be one of 1, 2, inf, got 3"),
        ({"norm": "two"}, "norm must be one of 1, 2, inf, got two"),
        ({"gamma": 0}, "gamma must be positive and finite, got 0"),
        ({"gamma": math.nan}, "gamma must be positive and finite, got nan"),
        ({"alpha": 0.0}, "alpha must be positive and finite, got 0.0"),
        ({"alpha": math.inf}, "alpha must be positive and finite, got inf"),
        ({"eps": 0.0}, "eps must be positive and finite, got 0.0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"scores": "softmax"}, "scores must be one of probability, logit, log_probability, got softmax"),
        (
            {"aggregation": "min"},
            "aggregation must be one of min_distance, sum_of_hinges, mean_distance, got min",
        ),
        ({"layers": []}, f"{LIST_OF_LAYERS}, got []"),
        ({"layers": "relu1"}, f"{LIST_OF_LAYERS}, got 'relu1'"),
        ({"layers": ["fc1", "fc1"]}, f"{LIST_OF_LAYERS}, got ['fc1', 'fc1']"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        LargeMargin(**options)
    assert str(raised.value) == message


def test_targets_that_do_not_fit(model):
    inputs, targets = batch()
    value_and_gradient(LargeMargin(top_k=CLASSES - 1), model, inputs, targets)
    with pytest.raises(ValueError, match=f"^top_k must be at most {CLASSES - 1}, one less than the classes, got"):
        value_and_gradient(LargeMargin(top_k=CLASSES), model, inputs, targets)
    forward = EagerForward(model, lambda outputs, _: outputs.sum(1), inputs, torch.randn(6, CLASSES))
    with pytest.raises(ValueError, match="large margin needs class labels as targets, got values"):
        LargeMargin()(forward)


def options_of(name: str) -> dict[str, Any]:
    """Return what a file under conf/penalty gives the constructor; it nests the key of the class whatever its name."""
    options: Any = OmegaConf.to_container(OmegaConf.load(CONF / "penalty" / f"{name}.yaml"))
    (key,) = options
    assert key == "large_margin"
    assert options[key].pop("_target_") == "losses.LargeMargin"
    return {name: value for name, value in options[key].items() if name not in COMMON["penalty"]}


def test_flags_and_config():
    """Batch norm is tolerated, as in the reference; the config's defaults are the constructor's."""
    assert vars(LargeMargin(**options_of("large_margin"))) == vars(LargeMargin())
    assert vars(LargeMargin(norm=math.inf)) == vars(LargeMargin(norm="inf"))
    assert LargeMargin.per_example
    assert LargeMargin.tolerates_batch_norm
    assert LargeMargin().statistics() == {}


def test_the_papers_options_are_a_preset(composed):
    """Those of the public code's MNIST training, and nothing is left to defaults that may change."""
    options = options_of("large_margin_reference")
    assert options.keys() == options_of("large_margin").keys()
    paper = {"scores": "probability", "top_k": 1, "aggregation": "min_distance", "norm": "inf", "gamma": 10000}
    assert options == {**paper, "differentiate_norm": False, "alpha": 4, "eps": 1e-6, "layers": ["inputs"]}
    for experiment, own in {
        "large_margin_mnist": {"layers": ["inputs", "relu1", "relu2"]},
        "large_margin_noisy": {"layers": ["relu2"], "norm": 2, "top_k": 9, "aggregation": "mean_distance"},
        "large_margin_reference": {"layers": ["inputs", "norm1", "norm2"]},
    }.items():
        node = composed(f"experiment={experiment}").config["penalty"]["large_margin"]
        del node["weight_range"]  # a sweep's
        assert node == {"_target_": "losses.LargeMargin", "weight": 1, "every": 1, "warmup": 0, **options, **own}


def test_the_papers_training_is_a_preset(composed):
    """The values of the public code's train.py, mnist_config.py and mnist_model.py."""
    config = composed("experiment=large_margin_reference").config
    optimizer = {key: config["optimizer"][key] for key in ("lr", "alpha", "eps", "momentum", "weight_decay", "clip")}
    assert optimizer == {"lr": 0.1, "alpha": 0.9, "eps": 0.01, "momentum": 0, "weight_decay": 0, "clip": 5}
    assert config["optimizer"]["_target_"] == "runner.training.optimizers.TensorFlowRMSprop"
    assert config["scheduler"] == {"_target_": "runner.training.schedule.Staircase", "factor": 0.96, "steps": 2000}
    assert config["model"]["_target_"] == "models.LargeMarginConvnet"
    assert config["model"]["batch_norm"]
    assert config["init"] == {"_target_": "models.XavierUniform", "gain": 1}
    assert (config["data"]["normalize"], config["data"]["validation_size"]) == ("none", 0)
    assert (config["batch_size"], config["loss"]["weight"]) == (256, 0)
    assert (config["penalty"]["l2"]["weight"], config["penalty"]["l2"]["biases"]) == (2.5e-4, True)  # 5e-4 / 2, all


@pytest.mark.parametrize("seed", [0, 1])
def test_it_trains_alone_with_everything_else_at_its_default(train, seed):
    """Beside cross-entropy with plain SGD: to the same error, with the decisions further away."""
    options = (f"seed={seed}", "epochs=8", "evaluate_every=0", "data.train_size=500", "probe=boundary")
    plain, margin = train(*options), train(*options, "penalty=large_margin")
    assert margin["status"] == "done", margin["reason"]
    assert margin["test/error"] < plain["test/error"] + 0.03
    assert margin["probe/boundary/mean"] > plain["probe/boundary/mean"]
