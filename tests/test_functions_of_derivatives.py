"""The plain functions: each example's own derivatives, against torch's own whole Jacobian."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losses import (
    CrossEntropy,
    EagerForward,
    Jacobian,
    input_gradients,
    jacobian,
    jacobian_norm,
    per_example_gradients,
    tangent_derivative,
)


def net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), *layers, nn.Flatten(), nn.Linear(8, 3))


MODEL = net().double().eval()
with torch.no_grad():
    MODEL[1].running_mean += 0.3
    MODEL[1].running_var *= 2.0
X = torch.randn(5, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(5) % 3
CHUNKS = pytest.mark.parametrize("chunk", [None, 1, 2, 7])


def blocks(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    whole = torch.autograd.functional.jacobian(model, x)  # (B, C, B, *I)
    return torch.stack([whole[n, :, n] for n in range(len(x))])


@CHUNKS
def test_the_jacobian_is_each_examples_own(chunk: int | None) -> None:
    before = copy.deepcopy(MODEL.state_dict())
    ours = jacobian(MODEL, X, chunk=chunk)
    assert ours.shape == (5, 3, 1, 3, 3)
    torch.testing.assert_close(ours, blocks(MODEL, X))
    torch.testing.assert_close(jacobian_norm(MODEL, X, chunk=chunk), ours.flatten(1).square().sum(1))
    assert not ours.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in MODEL.state_dict().items())


def test_shapes_follow_outputs_and_inputs() -> None:
    table = nn.Linear(4, 3).double()
    assert jacobian(table, X.flatten(1)[:, :4]).shape == (5, 3, 4)
    assert jacobian(nn.Sequential(table, nn.Flatten(0, 0)), X.flatten(1)[:, :4]).shape == (5, 3, 4)
    one = nn.Sequential(nn.Linear(4, 1).double(), nn.Flatten(0))
    assert jacobian(one, X.flatten(1)[:, :4]).shape == (5, 4)
    volume = nn.Conv2d(1, 2, 2).double()
    assert jacobian(volume, X).shape == (5, 2, 2, 2, 1, 3, 3)


@CHUNKS
def test_the_other_functions_follow_from_the_jacobian(chunk: int | None) -> None:
    whole = blocks(MODEL, X).flatten(2)
    t = torch.randn(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    along = torch.einsum("bcd,bd->bc", whole, t.flatten(1))
    torch.testing.assert_close(tangent_derivative(MODEL, X, t, chunk=chunk), along)
    slopes = MODEL(X).softmax(1) - nn.functional.one_hot(Y, 3)
    wanted = torch.einsum("bc,bcd->bd", slopes.detach(), whole).view(X.shape)
    torch.testing.assert_close(input_gradients(MODEL, CrossEntropy(), X, Y, chunk=chunk), wanted)


@CHUNKS
def test_gradients_of_each_example(chunk: int | None) -> None:
    ours = per_example_gradients(MODEL, CrossEntropy(), X, Y, chunk=chunk)
    assert [*ours] == [name for name, _ in MODEL.named_parameters()]
    for n in range(len(X)):
        loss = CrossEntropy()(MODEL(X[n : n + 1]), Y[n : n + 1]).sum()
        for (name, param), grad in zip(
            MODEL.named_parameters(), torch.autograd.grad(loss, list(MODEL.parameters())), strict=True
        ):
            assert ours[name].shape == (5, *param.shape)
            torch.testing.assert_close(ours[name][n], grad)


def test_they_can_be_differentiated() -> None:
    model = net().double().eval()
    value = jacobian_norm(model, X, create_graph=True).mean()
    wanted = jacobian(model, X, create_graph=True).square().sum() / 5
    grads = [torch.autograd.grad(one, model[0].weight)[0] for one in (value, wanted)]
    torch.testing.assert_close(*grads)
    assert grads[0].norm() > 0
    assert input_gradients(model, CrossEntropy(), X, Y, create_graph=True).requires_grad
    assert tangent_derivative(model, X, X, create_graph=True).requires_grad


def test_dropout_has_one_mask_for_all_rows() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 3)).double()
    ours = jacobian(model, X)
    kept = ours / model[2].weight.detach()[None].view(1, 3, 1, 3, 3)
    assert set(kept.round(decimals=9).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept[:, 0] != 0, kept[:, 1] != 0)
    torch.manual_seed(3)
    ours = per_example_gradients(model, CrossEntropy(), X, Y)
    torch.manual_seed(3)
    CrossEntropy()(model(X), Y).sum().backward()
    torch.testing.assert_close(ours["2.weight"].sum(0), model[2].weight.grad)


def test_float32_and_mistakes() -> None:
    single = copy.deepcopy(MODEL).float()
    torch.testing.assert_close(jacobian(single, X.float()).double(), blocks(MODEL, X), rtol=1e-3, atol=1e-5)
    mixing = net().double()
    for call in (
        lambda: jacobian(mixing, X),
        lambda: jacobian_norm(mixing, X),
        lambda: per_example_gradients(mixing, CrossEntropy(), X, Y),
    ):
        with pytest.raises(ValueError, match=r"mix in 1 \(BatchNorm2d\)"):
            call()
    with pytest.raises(ValueError, match="chunk must be positive or null, got 0"):
        jacobian(MODEL, X, chunk=0)
    with pytest.raises(ValueError, match=r"t must have rows of shape \(1, 3, 3\), got \(9,\)"):
        tangent_derivative(MODEL, X, X.flatten(1))
    with pytest.raises(ValueError, match="must return the loss of each example"):
        input_gradients(MODEL, nn.CrossEntropyLoss(), X, Y)


MIXING = pytest.mark.parametrize("chunk", [None, 1, 4])


@MIXING
def test_mixed_examples_are_refused_whatever_the_chunk_and_statistics_stay(chunk: int | None) -> None:
    model = net().double()
    for call in (
        lambda: jacobian(model, X, chunk=chunk),
        lambda: tangent_derivative(model, X, X, chunk=chunk),
        lambda: input_gradients(model, CrossEntropy(), X, Y, chunk=chunk),
        lambda: per_example_gradients(model, CrossEntropy(), X, Y, chunk=chunk),
        lambda: jacobian_norm(model, X[:1]),
    ):
        with pytest.raises(ValueError, match=r"mix in 1 \(BatchNorm2d\)"):
            call()
    assert model[1].num_batches_tracked == 0
    assert not model[1].running_mean.any()


@MIXING
def test_mixed_examples_of_token_ids_are_refused(chunk: int | None) -> None:
    table = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    ids = torch.arange(10).view(5, 2) % 9
    with pytest.raises(ValueError, match=r"mix in 2 \(BatchNorm1d\)"):
        per_example_gradients(table, CrossEntropy(), ids, Y, chunk=chunk)
    grads = per_example_gradients(table.eval(), CrossEntropy(), ids, Y, chunk=chunk)
    CrossEntropy()(table(ids), Y).sum().backward()
    assert torch.equal(grads["0.weight"][0].any(1).nonzero().flatten(), ids[0])
    torch.testing.assert_close(grads["0.weight"].sum(0), table[0].weight.grad)


class Tokens(nn.Module):
    """Two inputs, two outputs, integers among the first."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, scale: Tensor) -> dict[str, Tensor]:
        hidden = self.table(ids).tanh().mean(1) * scale
        return {"hidden": hidden, "logits": self.last(hidden).tanh()}


@CHUNKS
def test_a_layer_one_of_several_inputs_and_one_of_several_outputs(chunk: int | None) -> None:
    torch.manual_seed(0)
    model, ids = Tokens().double(), torch.arange(10).view(5, 2) % 9
    scale = torch.rand(5, 4, dtype=torch.float64) + 0.5
    x = {"ids": ids, "scale": scale}

    def logits(rows: Tensor, scale: Tensor) -> Tensor:
        return model.last(rows.tanh().mean(1) * scale).tanh()

    rows = model.table(ids).detach()
    by_layer = blocks(lambda rows: logits(rows, scale), rows)
    by_scale = blocks(lambda scale: logits(rows, scale), scale)
    options = {"output": "logits", "chunk": chunk}
    torch.testing.assert_close(jacobian(model, x, at="table", **options), by_layer)
    torch.testing.assert_close(jacobian(model, (ids, scale), at="inputs.1", **options), by_scale)
    torch.testing.assert_close(jacobian_norm(model, x, at="inputs.scale", **options), by_scale.square().sum((1, 2)))
    along = tangent_derivative(model, x, torch.ones_like(rows), at="table", **options)
    torch.testing.assert_close(along, by_layer.sum((2, 3)))
    slopes = input_gradients(model, lambda o, y: o[:, 0] * y, x, scale[:, 0], at="inputs.scale", **options)
    torch.testing.assert_close(slopes, by_scale[:, 0] * scale[:, :1])
    grads = per_example_gradients(model, CrossEntropy(), x, Y, **options)
    CrossEntropy()(model(**x)["logits"], Y).sum().backward()
    for name, param in model.named_parameters():
        torch.testing.assert_close(grads[name].sum(0), param.grad)


class Branching(nn.Module):
    """Goes by a number, which vmap forbids."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.tanh() if float(inputs.detach().sum()) > -1e9 else inputs


class Shared(nn.Module):
    """One layer twice, which torch.func.functional_call gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        middle = nn.Linear(9, 9)
        self.layers = nn.Sequential(nn.Flatten(), middle, nn.Tanh(), middle, nn.Linear(9, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


PARTS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: net().eval(),
    "branching": lambda: net(Branching()).eval(),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
    "in place": lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
    "random slopes": lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.RReLU(), nn.Linear(8, 3)),
    "frozen": lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 8).requires_grad_(False), nn.Linear(8, 3)),
    "shared": Shared,
    "transformer": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Linear(9, 4),
        nn.TransformerEncoderLayer(4, 2, 4, 0.5, batch_first=True),
        nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "recurrent": lambda: nn.Sequential(nn.Flatten(2), Last(9, 4), nn.Linear(4, 3)),
}


class Last(nn.LSTM):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(inputs)[0][:, -1]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_each_example_sum_up_to_those_of_one_pass(part: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = PARTS[part]().to(dtype), X.to(dtype)
    torch.manual_seed(1)
    ours = per_example_gradients(model, CrossEntropy(), x, Y)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    CrossEntropy()(model(x.clone()), Y).sum().backward()
    assert torch.equal(torch.rand(1), drawn)  # as many numbers as one pass
    trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
    assert ours.keys() == trained.keys()
    for name, param in trained.items():
        torch.testing.assert_close(ours[name].sum(0), param.grad)
        assert ours[name].shape == (5, *param.shape)
    assert any((one[0] - one[1]).norm() > 1e-3 for one in ours.values())


@pytest.mark.parametrize("part", ["dropout", "branching"])
def test_gradients_of_each_example_can_be_differentiated(part: str) -> None:
    torch.manual_seed(0)
    model = PARTS[part]().double()
    torch.manual_seed(1)
    ours = per_example_gradients(model, CrossEntropy(), X, Y, create_graph=True)
    first = next(iter(model.parameters()))
    (slope,) = torch.autograd.grad(sum(one.square().sum() for one in ours.values()), first)
    torch.manual_seed(1)
    losses = CrossEntropy()(model(X), Y)
    own = [torch.autograd.grad(loss, list(model.parameters()), create_graph=True) for loss in losses]
    (wanted,) = torch.autograd.grad(sum(one.square().sum() for grads in own for one in grads), first)
    torch.testing.assert_close(slope, wanted)
    assert slope.norm() > 0
    assert not any(one.requires_grad for one in per_example_gradients(model, CrossEntropy(), X, Y).values())


@pytest.mark.parametrize("part", ["batch norm", "dropout", "in place", "shared"])
def test_gradients_of_many_examples_take_no_pass_over_all_for_each(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    whole = EagerForward.vjp

    def vjp(self: EagerForward, cotangent: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        rows.append(len(cotangent))
        return whole(self, cotangent, *args, **kwargs)

    monkeypatch.setattr(EagerForward, "vjp", vjp)
    per_example_gradients(PARTS[part]().double(), CrossEntropy(), X.repeat(8, 1, 1, 1), Y.repeat(8))
    assert set(rows) == {2}  # those on which it was tried


def test_mistakes_get_a_sentence() -> None:
    for chunk in (0, -1):
        with pytest.raises(ValueError, match=f"chunk must be positive or null, got {chunk}"):
            per_example_gradients(MODEL, CrossEntropy(), X, Y, chunk=chunk)
    with pytest.raises(ValueError, match="as many rows, at least one, got 5 of x"):
        input_gradients(MODEL, CrossEntropy(), X, Y[:3])
    with pytest.raises(ValueError, match="as many rows, at least one, got 0 of x"):
        jacobian(MODEL, X[:0])
    with pytest.raises(ValueError, match="must have parameters that require a gradient, got none"):
        per_example_gradients(lambda x: MODEL(x), CrossEntropy(), X, Y)
    with pytest.raises(ValueError, match="inputs are integers, which have no derivative: name a layer"):
        jacobian(nn.Embedding(9, 4), torch.arange(5))
    with pytest.raises(ValueError, match="name the one to take, output='hidden' or 'logits'"):
        jacobian(Tokens(), (torch.ones(2, 2, dtype=torch.long), torch.ones(2, 4)), at="inputs.1")
    lost = nn.Sequential(nn.Flatten(), Detached(9, 3)).double()
    with pytest.raises(ValueError, match=r"is lost in 1\.weight"):
        per_example_gradients(lost, CrossEntropy(), X, Y)


class Detached(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach() + inputs[:, :3]


def test_complex_norms_are_real() -> None:
    layer = nn.Linear(4, 3, dtype=torch.complex64)
    norms = jacobian_norm(layer, torch.ones(2, 4, dtype=torch.complex64))
    torch.testing.assert_close(norms, layer.weight.detach().abs().square().sum().expand(2))


def test_the_norm_is_what_the_penalty_is() -> None:
    penalty = Jacobian(projections=None)
    forward = EagerForward(MODEL, CrossEntropy(), X, Y, [penalty])
    torch.testing.assert_close(jacobian_norm(MODEL, X), penalty(forward).detach())
