"""The loop: what is promised of steps, gradients, generators and results."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from losses import L1, Forward, Penalty
from runner.outcome import remedy_of
from runner.training.build import build, build_optimizer
from runner.training.loop import CHECK_EVERY, Diverged, Loop
from runner.training.schedule import Constant
from runner.training.term import Term

Composed = Callable[..., Any]
SMALL = ("epochs=2", "data.train_size=60", "batch_size=20", "data.validation_size=20", "optimizer=sgd")
MLP = (*SMALL, "model=mlp", "model.widths=[8]")


def looped(composed: Composed, *overrides: str) -> Loop:
    """Return a loop that is ready to train."""
    directory = composed(*overrides)
    return Loop(build(directory.config), directory.config)


def weights_after(loop: Loop, epochs: int = 1) -> Tensor:
    """Train and return all parameters as one vector."""
    for _ in range(epochs):
        loop.run_epoch()
    return vector(loop.components.model)


def vector(model: torch.nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten() for param in model.parameters()])


PENALTIES = ("l2", "l1", "elastic_net", "jacobian", "jacobian_spectral", "tangent_prop", "large_margin")


@pytest.mark.parametrize("penalty", [*PENALTIES, "input_gradient", "weight_gradient", "activation_gradient"])
def test_weight_zero_leaves_training_bit_identical(composed: Composed, penalty: str) -> None:
    plain = weights_after(looped(composed, *SMALL))
    zero = weights_after(looped(composed, *SMALL, f"penalty={penalty}", f"penalty.{penalty}.weight=0"))
    assert torch.equal(plain, zero)


def test_a_penalty_that_draws_shifts_neither_order_nor_initialisation(composed: Composed) -> None:
    # With a vanishing weight every step is the same as without; a shifted order would show at once.
    plain = weights_after(looped(composed, *SMALL))
    drawing = weights_after(looped(composed, *SMALL, "penalty=jacobian", "penalty.jacobian.weight=1e-30"))
    torch.testing.assert_close(drawing, plain, rtol=0, atol=1e-6)


def test_same_seed_same_bits_other_seed_other_bits(composed: Composed) -> None:
    penalty = (*SMALL, "penalty=jacobian")
    first, again = (weights_after(looped(composed, *penalty)) for _ in range(2))
    other = weights_after(looped(composed, *penalty, "seed=1"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_l2_is_weight_decay(composed: Composed) -> None:
    penalty = weights_after(looped(composed, *MLP, "penalty=l2", "penalty.l2.weight=0.01"))
    decay = weights_after(looped(composed, *MLP, "optimizer.weight_decay=0.02"))
    plain = weights_after(looped(composed, *MLP))
    torch.testing.assert_close(penalty, decay, rtol=1e-5, atol=1e-6)
    assert (penalty - plain).abs().max() > 1e-4


def test_full_gradient_is_the_sum_over_mini_batches_and_counts_l2_once(composed: Composed) -> None:
    overrides = (*MLP, "optimizer.gradient=full", "optimizer.lr=0.1", "penalty=l2", "penalty.l2.weight=0.5")
    loop = looped(composed, *overrides, "shuffle=false")
    components = loop.components
    before = vector(components.model)
    inputs, targets = components.dataset.train.inputs, components.dataset.train.targets
    losses = components.criterion(components.model(inputs), targets)
    objective = losses.reshape(-1, 20).mean(1).sum() + 0.5 * sum(
        p.square().sum() for p in components.model.parameters()
    )
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(objective, list(components.model.parameters()))])
    after = weights_after(loop)
    torch.testing.assert_close(after, before - 0.1 * gradient, rtol=1e-4, atol=1e-5)
    assert loop.steps_per_epoch == 1


class Recorder(Penalty):
    """Draws a number at each evaluation, and remembers it."""

    def __init__(self) -> None:
        self.draws: list[float] = []

    def __call__(self, forward: Forward) -> Tensor:
        self.draws.append(forward.normal()[0].item())
        return forward.outputs.sum(1) * 0.0


class Size(Penalty):
    """Is worth 1 on the whole, but not for each example."""

    def __call__(self, forward: Forward) -> Tensor:
        return torch.arange(len(forward.inputs)).float() * 2 / (len(forward.inputs) - 1)


def test_lbfgs_sees_the_same_directions_within_a_step(composed: Composed) -> None:
    loop = looped(composed, *MLP, "optimizer=lbfgs", "optimizer.max_iter=4")
    recorder = Recorder()
    loop.components.terms.append(Term("recorder", recorder))
    loop.run_epoch()
    assert len(recorder.draws) > 3  # several evaluations in each of three steps
    assert len(set(recorder.draws)) == 3


class Noted(Penalty):
    """The value of another penalty, remembered."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def __call__(self, forward: Forward) -> Tensor:
        values = forward.outputs.square().sum(1)
        self.values.append(values.mean().item())
        return values


def test_lbfgs_records_one_evaluation_and_its_trials_see_one_function(composed: Composed) -> None:
    """Objective and penalties of the first evaluation; dropout with the same masks in each."""
    overrides = ("optimizer=lbfgs", "optimizer.max_iter=4", "optimizer.lr=1e-30", "batch_size=60", "loss.weight=1e-30")
    loop = looped(composed, *MLP, *overrides)
    loop.components.model.register_forward_hook(lambda *given: torch.nn.functional.dropout(given[2]))
    noted = Noted()
    loop.components.terms.append(Term("noted", noted))
    state = torch.get_rng_state()
    loop.run_epoch()
    means = loop.read_means()
    after = torch.get_rng_state()
    assert len(noted.values) > 1
    assert len(set(noted.values)) == 1  # at a learning rate of 0: only other masks could change it
    torch.set_rng_state(state)
    torch.nn.Dropout(0.5)(torch.ones(60, 10))
    assert torch.equal(torch.get_rng_state(), after)  # the stream of one evaluation
    assert means["train/penalty/noted"] == pytest.approx(means["train/objective"])

    loop = looped(composed, *MLP, "optimizer=lbfgs", "optimizer.max_iter=4", "batch_size=60", "loss.weight=1e-30")
    noted = Noted()
    loop.components.terms.append(Term("noted", noted))
    loop.run_epoch()
    means = loop.read_means()
    assert noted.values[0] != pytest.approx(noted.values[-1])  # the line search went on to others
    assert means["train/penalty/noted"] == pytest.approx(noted.values[0])
    assert means["train/objective"] == pytest.approx(noted.values[0])


def test_every_and_warmup_set_the_coefficient(composed: Composed) -> None:
    loop = looped(composed, *MLP)
    loop.components.terms.append(Term("size", Size(), weight=2.0, every=2, warmup=2))
    weights: list[float] = []
    objective = loop.objective

    def noted(indices: Tensor, terms: Any, epoch: float, means: Any) -> Tensor:
        with_terms = objective(indices, terms, epoch, means)
        weights.extend([(with_terms - objective(indices, [], epoch, means)).item() for _ in terms])
        return with_terms

    loop.objective = noted  # type: ignore[method-assign]
    loop.run_epoch()
    loop.run_epoch()
    # Steps 0, 2, 4 of six, three an epoch: twice the weight, growing over two epochs.
    assert weights == pytest.approx([0.0, 4 * (2 / 3) / 2, 4 * (4 / 3) / 2])


def test_weight_grows_linearly_over_the_warmup() -> None:
    term = Term("size", Size(), weight=0.4, every=5, warmup=2)
    assert [term.weight_at(epoch) for epoch in (0, 0.5, 1, 2, 9)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert term.coefficient_at(0.5) == pytest.approx(0.5)
    assert Term("size", Size(), weight=0.4).weight_at(0) == 0.4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight": -1}, "weight must be at least 0 and finite, got -1"),
        ({"weight": math.nan}, "weight must be at least 0 and finite, got nan"),
        ({"every": 0}, "every must be at least 1 and finite, got 0"),
        ({"warmup": -0.5}, "warmup must be at least 0 and finite, got -0.5"),
        ({"every": 2}, "every must be 1 for a proximal penalty, got 2: its step follows each step of the optimizer"),
    ],
)
def test_coefficients_out_of_range_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Term("l1", L1(), **options)


def test_a_proximal_step_grows_with_its_warmup(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds: list[float] = []
    monkeypatch.setattr(L1, "prox_", lambda self, params, weight, lr: thresholds.append(weight))
    weights_after(looped(composed, *MLP, "penalty=l1", "penalty.l1.weight=0.6", "penalty.l1.warmup=2"))
    assert thresholds == pytest.approx([0.0, 0.1, 0.2])  # three steps, half of the warmup


def test_clip_bounds_the_step(composed: Composed) -> None:
    loop = looped(composed, *MLP, "optimizer.clip=0.001", "optimizer.lr=1", "batch_size=60")
    before = vector(loop.components.model)
    assert (weights_after(loop) - before).norm().item() == pytest.approx(0.001, rel=1e-3)


def test_groups_give_layers_their_own_options(composed: Composed) -> None:
    loop = looped(composed, *SMALL, "optimizer.lr=0.1", "optimizer.groups={fc2: {lr: 0.01}}")
    rest, own = loop.components.optimizer.param_groups
    assert (rest["lr"], own["lr"]) == (0.1, 0.01)
    fc2 = list(loop.components.model.get_submodule("fc2").parameters())
    assert all(param is other for param, other in zip(own["params"], fc2, strict=True))


def test_the_innermost_of_nested_groups_counts(composed: Composed) -> None:
    model = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 3)), torch.nn.Linear(3, 4)
    )
    config = composed(*SMALL, "optimizer.lr=0.1").config
    config["optimizer"]["groups"] = {"0": {"lr": 0.01}, "0.1": {"lr": 0.001}}
    optimizer = build_optimizer(config, model, Constant())
    rates = {id(param): group["lr"] for group in optimizer.param_groups for param in group["params"]}
    names = {name.removesuffix(".weight"): rates[id(p)] for name, p in model.named_parameters() if "weight" in name}
    assert names == {"0.0": 0.01, "0.1": 0.001, "1": 0.1}


def test_l1_step_uses_the_rate_of_each_group(composed: Composed) -> None:
    loop = looped(
        composed, *MLP, "optimizer.lr=0.1", "optimizer.groups={fc2: {lr: 1e-20}}",
        "penalty=l1", "penalty.l1.weight=1", "penalty.l1.scale_by_lr=true",
    )  # fmt: skip
    loop.run_epoch()
    fc1, fc2 = (loop.components.model.get_submodule(name).weight for name in ("fc1", "fc2"))
    assert (fc1 == 0).float().mean() > 0.5
    assert (fc2 == 0).float().mean() == 0


def order_of(loop: Loop) -> list[int]:
    return torch.cat([batch for (batch,) in loop.steps()]).tolist()


def test_order_is_a_function_of_seed_and_epoch(composed: Composed) -> None:
    loop = looped(composed, *MLP)
    first = order_of(loop)
    assert first == order_of(loop)
    assert sorted(first) == list(range(60))
    loop.epoch = 1
    assert first != order_of(loop)
    assert order_of(looped(composed, *MLP, "shuffle=false")) == list(range(60))
    assert order_of(looped(composed, *MLP, "batch_size=60")) == list(range(60))  # one batch: it does not matter
    assert order_of(looped(composed, *MLP, "batch_size=59")) != list(range(60))


def test_the_last_batch_of_an_epoch_may_be_small_and_is_a_step_too(composed: Composed) -> None:
    loop = looped(composed, *MLP, "batch_size=25")
    loop.run_epoch()
    assert loop.steps_done == loop.steps_per_epoch == len(loop.steps()) == 3


def test_divergence_stops_the_run_and_is_told(composed: Composed, train: Callable[..., dict[str, Any]]) -> None:
    loop = looped(composed, *SMALL, "optimizer.lr=1e20")
    loop.run_epoch()
    with pytest.raises(Diverged) as divergence:
        loop.check_finite()
    assert divergence.value.step in (2, 3)
    assert math.isfinite(divergence.value.last_finite)
    result = train(*SMALL, "optimizer.lr=1e20")
    assert result["status"] == "diverged"
    assert result["diverged_at_step"] == divergence.value.step
    assert result["reason"].endswith(" before: try optimizer.clip=5 or optimizer.lr below 1e+20")


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ((), "optimizer.clip=5 or optimizer.lr below 0.1"),
        (("optimizer.clip=2",), "optimizer.clip below 2 or optimizer.lr below 0.1"),
        (("scheduler=step", "scheduler.values=[0.3,0.1]", "scheduler.milestones=[1]"), "scheduler.values below 0.3"),
        (("optimizer=lbfgs",), "try optimizer.lr below 1"),
        (("optimizer=lbfgs", "optimizer.line_search_fn=null"), "optimizer.line_search_fn=strong_wolfe or optimizer.lr"),
        (
            ("penalty=[jacobian,l1]", "penalty.jacobian.warmup=3"),
            "optimizer.lr below 0.1, penalty.jacobian.weight below 0.01 or penalty.jacobian.warmup above 3",
        ),
        (("penalty=jacobian", "penalty.jacobian.weight=0"), "try optimizer.clip=5 or optimizer.lr below 0.1"),
    ],
)
def test_the_remedy_names_the_options_at_work(composed: Composed, overrides: list[str], options: str) -> None:
    config = composed(*MLP, *overrides).config
    sentence = remedy_of(config, build(config).terms, has_moved=True)
    assert options in sentence
    assert "l1" not in sentence  # a proximal step cannot diverge
    assert "below 0 " not in sentence


def test_an_objective_that_is_infinite_before_any_step(train: Callable[..., dict[str, Any]]) -> None:
    """No learning rate has acted yet."""
    result = train(*MLP, "penalty=l2", "penalty.l2.weight=1e38", "init=normal", "init.std=10")
    assert result["diverged_at_step"] == 1
    assert result["reason"] == (
        "the objective is not finite at step 1: no step was made before, so look for huge numbers in "
        "data or init or penalty.l2.weight=1e+38"
    )


def test_divergence_in_the_first_step_after_a_resumption_knows_what_was_before(composed: Composed) -> None:
    loop, resumed = (looped(composed, *MLP) for _ in range(2))
    loop.run_epoch()
    before = loop.unchecked[-1].item()
    resumed.load_state_dict(loop.state_dict())
    with torch.no_grad():
        resumed.params[0].fill_(math.nan)
    resumed.run_epoch()
    with pytest.raises(Diverged) as divergence:
        resumed.check_finite()
    assert divergence.value.step == loop.steps_per_epoch + 1
    assert (resumed.epoch, resumed.batch) == (1, 0)  # where it diverged, however long that was unknown
    assert divergence.value.last_finite == before


def test_epochs_of_few_steps_are_checked_together(composed: Composed) -> None:
    """No epoch waits for the device unless its means are read; what is found late is told as if it had been at once."""
    loop = looped(composed, *MLP, "batch_size=30")
    for _ in range(3):
        loop.run_epoch()
    before = loop.unchecked[-1].item()
    with torch.no_grad():
        loop.params[0].fill_(math.nan)
    epochs = CHECK_EVERY // 2 - 3
    for _ in range(epochs - 1):
        loop.run_epoch()
    with pytest.raises(Diverged) as divergence:
        loop.run_epoch()
    assert (divergence.value.step, divergence.value.last_finite) == (7, before)
    assert (loop.epoch, loop.batch) == (3, 0)


def test_an_error_that_follows_from_a_divergence_is_told_as_one(
    composed: Composed, train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's code may refuse NaN before the loop has looked."""
    step = Loop.step

    def picky(self: Loop, batches: Any) -> None:
        if not vector(self.components.model).isfinite().all():
            raise FloatingPointError("no NaN here")
        step(self, batches)

    monkeypatch.setattr(Loop, "step", picky)
    result = train(*MLP, "epochs=20", "optimizer.lr=1e30", "evaluate_every=0", "batch_size=60")
    assert result["status"] == "diverged"
    assert "the objective is not finite at step" in result["reason"]
    assert result["epoch"] == result["diverged_at_step"] - 1


def test_a_spectral_norm_that_diverges_is_told_as_a_divergence(train: Callable[..., dict[str, Any]]) -> None:
    """Of ten outputs the decomposition of the Gram matrix would raise, in the step that has no objective yet."""
    result = train(*SMALL, "penalty=jacobian_spectral", "optimizer.lr=1e30")
    assert result["status"] == "diverged"
    assert result["reason"].startswith("the objective is not finite at step 2; it was ")


def test_the_means_are_those_of_the_latest_epoch(composed: Composed) -> None:
    """Bit for bit, whether or not those of the epochs before were read, or a step was the last of its session."""
    read, unread, resumed = (looped(composed, *MLP, "penalty=l2") for _ in range(3))
    for _ in range(2):
        read.run_epoch()
        read.read_means()
        unread.run_epoch()
    for loop in (read, unread):
        loop.run_epoch(lambda loop=loop: loop.state_dict() if loop is read else None)
    expected = unread.read_means()
    assert expected == read.read_means()
    assert set(unread.means.counts.values()) == {unread.steps_per_epoch}
    assert expected["train/objective"] > expected["train/penalty/l2"] * 0.01 > 0

    states: list[Any] = []
    for _ in range(3):
        resumed.run_epoch(lambda: states.append(copy.deepcopy(resumed.state_dict())))
    for state in states[-3:]:
        loop = looped(composed, *MLP, "penalty=l2")
        loop.load_state_dict(state)
        loop.run_epoch()
        assert loop.read_means() == expected


def test_divergence_may_be_ignored(train: Callable[..., dict[str, Any]]) -> None:
    result = train(*SMALL, "optimizer.lr=1e20", "on_nan=continue")
    assert result["status"] == "done"
    assert math.isnan(result["train/loss"])


@pytest.mark.parametrize(
    "overrides", [("precision=bf16",), ("channels_last=false",), ("precision=bf16", "penalty=jacobian")]
)
def test_precision_and_layout_train(train: Callable[..., dict[str, Any]], overrides: list[str]) -> None:
    plain, other = train(*SMALL, "optimizer.lr=0.01"), train(*SMALL, "optimizer.lr=0.01", *overrides)
    assert other["train/loss"] == pytest.approx(plain["train/loss"], rel=0.05)
    assert other["train/loss"] != plain["train/loss"] or "precision=bf16" not in overrides


def test_bf16_is_of_the_inside_alone(composed: Composed) -> None:
    """Convolutions in bfloat16; outputs, losses, weights and gradients in float32."""
    loop = looped(composed, *SMALL, "precision=bf16", "penalty=jacobian")
    model, inside = loop.components.model, []
    model.get_submodule("conv1").register_forward_hook(lambda *given: inside.append(given[2].dtype))
    loop.run_epoch()
    assert set(inside) == {torch.bfloat16}
    assert model(loop.components.dataset.train.inputs[:2]).dtype == torch.float32
    assert {tensor.dtype for p in model.parameters() for tensor in (p, p.grad)} == {torch.float32}
    assert {objective.dtype for objective in loop.unchecked} == {torch.float32}


def test_frozen_batch_norm_differentiates_each_example(composed: Composed) -> None:
    loop = looped(composed, *SMALL, "model=large_margin_convnet", "batch_norm=frozen", "penalty=jacobian")
    model, inputs = loop.components.model.train(), loop.components.dataset.train.inputs
    before = inputs
    for name in ("conv1", "relu1", "pool1"):
        before = model.get_submodule(name)(before)
    torch.testing.assert_close(model.get_submodule("norm1").running_mean, before.mean((0, 2, 3)), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model(inputs[:2]), model(inputs[:9])[:2])  # training mode, and nothing is mixed
    loop.run_epoch()
    mean = model.get_submodule("norm1").running_mean.clone()
    loop.run_epoch()
    assert torch.equal(mean, model.get_submodule("norm1").running_mean)


def test_schedule_sets_the_rate(composed: Composed) -> None:
    loop = looped(composed, *MLP, "scheduler=step", "scheduler.milestones=[1]", "scheduler.values=[0.2,0.05]")
    rates = []
    for _ in range(2):
        loop.run_epoch()
        rates.append(loop.components.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.05])


def test_a_staircase_falls_within_an_epoch_and_goes_on_where_it_was(composed: Composed) -> None:
    options = (*MLP, "optimizer.lr=0.8", "scheduler=staircase", "scheduler.factor=0.5", "scheduler.steps=2")
    loop = looped(composed, *options)  # of three steps an epoch
    rates: list[float] = []

    def watch(loop: Loop) -> None:
        optimizer = loop.components.optimizer
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))

    def interrupt() -> None:
        if loop.epoch == 1 and loop.batch == 2:
            raise KeyboardInterrupt

    watch(loop)
    loop.run_epoch()
    with pytest.raises(KeyboardInterrupt):
        loop.run_epoch(interrupt)
    resumed = looped(composed, *options)
    watch(resumed)
    resumed.load_state_dict(loop.state_dict())
    resumed.run_epoch()
    assert rates == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    assert torch.equal(vector(resumed.components.model), weights_after(looped(composed, *options), 2))


def test_gradients_reach_the_parameters_alone(composed: Composed) -> None:
    loop = looped(composed, *SMALL, "penalty=[jacobian,l2]")
    loop.run_epoch()
    assert loop.components.dataset.train.inputs.grad is None
    assert all(param.grad is not None for param in loop.components.model.parameters())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["penalty=[]"], True),
        (["penalty=large_margin"], False),
        (["penalty=large_margin_reference"], True),
        (["penalty=jacobian"], False),
        (["penalty=jacobian", "penalty.jacobian.weight=0"], True),
        (["penalty=jacobian", "channels_last=true"], True),
        (["channels_last=false"], False),
        (["optimizer=lbfgs"], False),
    ],
)
def test_layout_is_the_faster_one(composed: Composed, overrides: list[str], expected: bool) -> None:
    weight = looped(composed, *SMALL, *overrides).components.model.get_submodule("conv2").weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == expected
