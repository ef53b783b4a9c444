"""Training, on one page: data on the device, one forward pass, penalties, backward, step, proximal step."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from losses import EagerForward, weights_of
from losses.passes import TorchDraws, state_of, undisturbed
from runner.training.build import Components
from runner.training.metrics import Means
from runner.training.optimizers import evaluates_once, make_step
from runner.training.seeds import seed_torch, stream_seed
from runner.training.term import Term

CHECK_EVERY = 50  # steps between checks of the objectives: each check waits for the device


class Diverged(Exception):
    """The objective became NaN or infinite; `step` is where, `last_finite` what it was before, NaN if nothing was."""

    def __init__(self, step: int, last_finite: float) -> None:
        before = f"; it was {last_finite:.6g} before" if math.isfinite(last_finite) else ""
        super().__init__(f"the objective is not finite at step {step}{before}")
        self.step, self.last_finite = step, last_finite


class Loop:
    """The training of one model.

    Its state is `epoch` (completed ones), `batch` (completed ones of the epoch under way), the components' own states,
    the generators and the sums for the means of the epoch (`state_dict`). The order of the examples is a pure
    function of (seed, epoch), so that training resumes anywhere, bit for bit; a single batch is never shuffled. Random
    directions and augmentation each have a generator of their own; torch's serve what a model draws itself (dropout).
    """

    def __init__(self, components: Components, config: dict[str, Any], forward_pass: Any = EagerForward) -> None:
        self.components, self.config, self.forward_pass = components, config, forward_pass
        self.params = [param for param in components.model.parameters() if param.requires_grad]
        weights_of(components.model)  # proximal steps, which are given parameters alone, know their layers from here
        self.generator = torch.Generator(components.device).manual_seed(stream_seed(config["seed"], "penalty"))
        self.augment_generator = torch.Generator(components.device).manual_seed(stream_seed(config["seed"], "augment"))
        seed_torch(stream_seed(config["seed"], "model"), components.device)
        self.base_lrs = [group["lr"] for group in components.optimizer.param_groups]
        self.evaluates_once = evaluates_once(components.optimizer)
        self.full_gradient = config["optimizer"]["gradient"] == "full"
        self.steps_per_epoch = 1 if self.full_gradient else -(-len(components.dataset.train) // config["batch_size"])
        self.has_one_order = not config["shuffle"] or len(components.dataset.train) <= config["batch_size"]
        self.latest_steps: Sequence[Sequence[Tensor]] = []
        self.epoch, self.batch, self.means, self.last_finite = 0, 0, Means(), float("nan")
        self.unchecked: list[Tensor] = []  # the objectives of the latest steps

    @property
    def steps_done(self) -> int:
        return self.epoch * self.steps_per_epoch + self.batch

    def run_epoch(self, before_step: Callable[[], None] = lambda: None) -> None:
        """Train to the end of the epoch under way; its means are then in `read_means`."""
        if not self.components.model.training:  # it walks through all layers
            self.components.model.train()
        if self.batch == 0:
            self.means = Means()
        for batches in self.steps()[self.batch :]:
            before_step()
            self.set_lrs()
            self.step(batches)
            self.batch += 1
            if len(self.unchecked) >= CHECK_EVERY:
                self.check_finite()
        self.epoch, self.batch = self.epoch + 1, 0

    def read_means(self) -> dict[str, Any]:
        """Return the means of the objective and the penalties over the steps of the last epoch."""
        self.check_finite()
        return self.means.compute()

    def steps(self) -> Sequence[Sequence[Tensor]]:
        """Return, for each step of this epoch, the indices of its mini-batches: one, or all for the full gradient."""
        if not (self.latest_steps and self.has_one_order):
            batches = self.order().to(self.components.device).split(self.config["batch_size"], dim=-1)
            self.latest_steps = [batches] if self.full_gradient else [[batch] for batch in batches]
        return self.latest_steps

    def order(self) -> Tensor:
        """Return the indices of the examples in the order of this epoch."""
        count, seed = len(self.components.dataset.train), stream_seed(self.config["seed"], "order", self.epoch)
        generator = torch.Generator().manual_seed(seed)
        return torch.arange(count) if self.has_one_order else torch.randperm(count, generator=generator)

    def step(self, batches: Sequence[Tensor]) -> None:
        """Make one step on the sum of the objectives of some mini-batches."""
        epoch = self.steps_done / self.steps_per_epoch
        due = [term for term in self.components.terms if term.is_due(self.steps_done)]
        generators = self.generator, self.augment_generator
        draws = None if self.evaluates_once else TorchDraws(self.components.device, *generators)
        start = None if self.evaluates_once else state_of(self.components.model)
        trials: list[Tensor] = []  # LBFGS evaluates several times: the first trial is the step's record

        def closure() -> Tensor:
            if trials and draws:  # the same function in each trial: the same random numbers, statistics counted once
                with undisturbed(self.components.model, self.components.device, hooks=True, start=start):
                    draws.restore()
                    return evaluated()
            return evaluated()

        def evaluated() -> Tensor:
            self.components.optimizer.zero_grad()
            objectives = []
            for number, indices in enumerate(batches):
                # A penalty on the weights alone counts once per step, not once per mini-batch.
                terms = [term for term in due if number == 0 or not term.penalty.of_weights]
                objective = self.objective(indices, terms, epoch, Means() if trials else self.means)
                # Of a stack there are several objectives. With penalties the inputs are tracked, and need no gradient.
                objective.backward(torch.ones_like(objective), inputs=self.params if due else None)
                objectives.append(objective.detach())
            if self.config["optimizer"]["clip"]:
                torch.nn.utils.clip_grad_norm_(self.params, self.config["optimizer"]["clip"])
            trials.append(reduce(torch.add, objectives))
            return trials[-1]

        make_step(self.components.optimizer, closure)
        self.unchecked.append(trials[0])
        self.means.add("train/objective", trials[0])
        for term in self.components.terms:
            if term.is_proximal and term.weight:
                for group in self.components.optimizer.param_groups:
                    term.penalty.prox_(group["params"], term.weight_at(epoch), group["lr"])

    def objective(self, indices: Tensor, terms: Sequence[Term], epoch: float, means: Means) -> Tensor:
        """Return loss.weight * mean loss + sum of weight * penalty of one mini-batch, from one forward pass.

        The values of the penalties are added to `means`.
        """
        batch, penalties = self.components.dataset.train[indices], [term.penalty for term in terms]
        model, criterion = self.components.model, self.components.criterion
        inputs = self.components.augment(batch, model, criterion, self.augment_generator)
        forward = self.forward_pass(model, criterion, inputs, batch.targets, penalties, self.generator)
        objective = forward.mean(forward.losses)
        if self.config["loss"]["weight"] != 1:
            objective = self.config["loss"]["weight"] * objective
        for term in terms:
            value = forward.mean(term.penalty(forward))
            objective = objective + term.coefficient_at(epoch) * value
            means.add(f"train/penalty/{term.name}", value.detach())
            for key, statistic in term.penalty.statistics(forward.mean).items():
                means.add(f"train/penalty/{term.name}/{key}", statistic.detach().clone())
        return objective

    def set_lrs(self) -> None:
        """Set the learning rates of the step to come."""
        factor = self.components.schedule(self.epoch, self.config["epochs"], self.steps_done)
        for group, base in zip(self.components.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor

    def check_finite(self) -> None:
        """Remember the last finite objective; raise Diverged if a later one is not and `on_nan` is stop."""
        self.means.sum_up()
        objectives = torch.stack(self.unchecked).tolist() if self.unchecked else []
        self.unchecked = []
        for step, objective in enumerate(objectives, self.steps_done - len(objectives) + 1):
            if math.isfinite(objective):
                self.last_finite = objective
            elif self.config["on_nan"] == "stop":
                self.epoch, self.batch = divmod(step - 1, self.steps_per_epoch)
                raise Diverged(step, self.last_finite)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, for a checkpoint."""
        self.check_finite()
        device = self.components.device
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "last_finite": self.last_finite,
            "means": {"sums": self.means.sums, "counts": self.means.counts},
            "model": self.components.model.state_dict(),
            "optimizer": self.components.optimizer.state_dict(),
            "device": device.type,
            "generator": self.generator.get_state(),
            "augment_generator": self.augment_generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.last_finite = state["last_finite"]
        self.means.sums = {name: total.cpu() for name, total in state["means"]["sums"].items()}
        self.means.counts = dict(state["means"]["counts"])
        self.components.model.load_state_dict(state["model"])
        self.components.optimizer.load_state_dict(state["optimizer"])
        if state["device"] == self.components.device.type:
            self.generator.set_state(state["generator"])
            if "augment_generator" in state:  # not in those of before there was augmentation
                self.augment_generator.set_state(state["augment_generator"])
        else:  # its state is of no use here: other directions, but reproducible ones
            self.generator.manual_seed(stream_seed(self.config["seed"], "penalty", self.epoch, self.batch))
            self.augment_generator.manual_seed(stream_seed(self.config["seed"], "augment", self.epoch, self.batch))
        torch.set_rng_state(state["torch_generator"])
        if self.components.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.components.device)
