"""The large-margin loss: pushes the linearised distance to the decision boundary up to a margin."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from .forward import Forward
from .penalty import Penalty, one_of

Scores = Literal["probability", "logit", "log_probability"]
Aggregation = Literal["min_distance", "sum_of_hinges", "mean_distance"]

DUAL = {1: math.inf, 2: 2, math.inf: 1}  # norm p -> dual norm q, 1/p + 1/q = 1


class LargeMargin(Penalty):
    """The mean hinge of the linearised distance to the decision boundary, at the inputs or inside the model.

    Distance of an example with label y to the boundary with class i, in the space of layer l:

        d_il = (s_y - s_i) / (eps + ||grad_{h_l} (s_y - s_i)||_q),    q dual to `norm`,
        hinge = gamma - clip(d, gamma (1 - alpha), gamma),    from 0 to alpha gamma,

    for the `top_k` wrong classes of highest score; mean over the batch and over `layers`. The defaults train
    beside cross-entropy with plain SGD, with a small weight (.01). It can also take the place of the data loss, as
    in its source. An example whose d lies outside the clip gives no gradient at all: `statistics` tells how many do.
    If training stalls with most of them at the lower clamp, clip the gradient, keep a share of cross-entropy, warm
    up, or use logits.

    Args:
        layers: where distances are measured: "inputs" and names of layers, each once, at least one.
        scores: s, of outputs that are logits (or log-probabilities): "probability" (softmax), "logit", or
            "log_probability", the same distances as "logit", since the normaliser cancels in s_y - s_i.
        top_k: how many wrong classes, from 1 to C - 1; each costs a vector-Jacobian product.
        aggregation: over them, "min_distance" or "mean_distance" (before the clip), or "sum_of_hinges".
        norm: in which distances are measured, 1, 2 or "inf". For inf the dual norm is divided by the
            number of the layer's elements: it is the mean absolute derivative.
        differentiate_norm: let gradients flow through the norm too, at a higher cost; False: held constant,
            which is not the gradient of the value: it pays to scale all logits up, although no distance grows.
        gamma: the margin, > 0, in units of d, for norm 2 at the inputs those of the normalised inputs.
        alpha: the hinge's ceiling in units of gamma, > 0; the clip's lower end is gamma (1 - alpha).
        eps: keeps d finite where the gradient vanishes, > 0.

    Raises:
        ValueError: for a value out of range; when called, `top_k` >= C or targets that are not classes.

    Source: Elsayed et al. 2018, arXiv 1803.05598, and their public code (google-research, large_margin). Their
    MNIST training takes probability, inf, False and 10000 for scores, norm, differentiate_norm and gamma
    (the runner's `penalty=large_margin_reference`), at the inputs and behind both convolutions, without cross-entropy.
    Their value is ours less a constant: gamma, or top_k gamma for sum_of_hinges; the gradient is the same.
    Their training script divides for inf, by way of layer weights; their function alone does not. Of wrong
    classes with exactly the same score we take one, they, for top 1, the mean of the gradients.
    `mean_distance`: forum question "Implementation of Large Margin Deep Networks for Classification"
    (discuss.pytorch.org/t/43047).
    """

    per_example = True
    tolerates_batch_norm = True

    def __init__(
        self,
        *,
        layers: Sequence[str] = ("inputs",),
        scores: Scores = "logit",
        top_k: int = 1,
        aggregation: Aggregation = "min_distance",
        norm: float | Literal["inf"] = 2,
        differentiate_norm: bool = True,
        gamma: float = 5.0,
        alpha: float = 4.0,
        eps: float = 1e-6,
    ) -> None:
        check_layers(layers)
        one_of("scores", scores, ("probability", "logit", "log_probability"))
        one_of("aggregation", aggregation, ("min_distance", "sum_of_hinges", "mean_distance"))
        norm = math.inf if norm == "inf" else norm
        one_of("norm", norm, tuple(DUAL))
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        for name, value in (("gamma", gamma), ("alpha", alpha), ("eps", eps)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.layers, self.scores, self.top_k, self.aggregation = tuple(layers), scores, top_k, aggregation
        self.order, self.differentiate_norm = DUAL[norm], differentiate_norm
        self.low, self.gamma, self.eps = gamma * (1 - alpha), gamma, eps
        self.prefers_contiguous = differentiate_norm
        self.at, self.holds_constant = self.layers[0], not differentiate_norm
        self._distances: Tensor | None = None

    def __call__(self, forward: Forward) -> Tensor:
        check_targets(forward.targets, forward.outputs.shape[-1], self.top_k)
        distances = self.distances(forward)
        if self.aggregation == "min_distance":
            distances = distances.amin(-1, keepdim=True)
        elif self.aggregation == "mean_distance":
            distances = distances.mean(-1, keepdim=True)
        # Unwrapped, so that what is kept outlives the `torch.func` transforms around this call.
        self._distances = torch.func.debug_unwrap(distances.detach(), recurse=True)
        hinges = self.gamma - distances.clamp(self.low, self.gamma)
        return hinges.sum(-1).mean(0)

    def distances(self, forward: Forward) -> Tensor:
        """Return the linearised distances to the boundaries with the top-k wrong classes, (layers, B, k)."""
        outputs, targets = forward.outputs, forward.targets
        scores = scores_of(outputs, self.scores)
        unit = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
        columns = []
        for wrong in wrong_classes(outputs, targets, self.top_k).unbind(-1):
            gaps, cotangent = gaps_of(scores, unit[targets] - unit[wrong], self.scores)
            # One product for all layers: row n of the summed gap's derivative belongs to example n alone.
            gradients = forward.vjp(cotangent, at=self.layers, create_graph=self.differentiate_norm)
            norms = torch.stack([dual_norm(gradient, self.order) for gradient in gradients])
            columns.append(gaps / (self.eps + norms))
        return torch.stack(columns, dim=-1)

    def statistics(self, mean: Callable[[Tensor], Tensor] = torch.mean) -> dict[str, Tensor]:
        """Return the fractions of distances at the lower clamp (given up) and the upper (margin reached)."""
        if self._distances is None:
            return {}
        ends = {
            "at_lower_clamp": self._distances <= self.low,
            "at_upper_clamp": self._distances >= self.gamma,
        }
        return {name: mean(clamped.double().mean((0, -1))) for name, clamped in ends.items()}


def scores_of(outputs: Tensor, scores: Scores) -> Tensor:
    """Return the scores (B, C) of outputs that are logits (or log-probabilities, which are logits too)."""
    if scores == "logit":
        return outputs
    return outputs.softmax(-1) if scores == "probability" else outputs.log_softmax(-1)


def wrong_classes(outputs: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return the top-k classes other than the target, by output, (B, k); all scores have the same order."""
    others = outputs.detach().scatter(-1, targets.unsqueeze(-1), -math.inf)
    return others.topk(top_k, dim=-1).indices


def gaps_of(scores: Tensor, direction: Tensor, kind: Scores) -> tuple[Tensor, Tensor]:
    """Return the gaps s_y - s_i, (B,), and their derivative by the outputs, (B, C), given e_y - e_i.

    For probabilities p that is p * (e_y - e_i - gap), the softmax's transposed Jacobian at work; for logits
    and log-probabilities, e_y - e_i itself.
    """
    gaps = (scores * direction).sum(-1)
    return gaps, scores * (direction - gaps.unsqueeze(-1)) if kind == "probability" else direction


def dual_norm(gradient: Tensor, order: float) -> Tensor:
    """Return each example's norm, (B, *H) -> (B,); that of order 1 divided by the number of elements.

    Its derivative at 0 is 0. The second one would be NaN there, but nothing differentiates it twice.
    """
    if order == 1:
        return gradient.abs().flatten(1).mean(1)
    return torch.linalg.vector_norm(gradient, order, dim=tuple(range(1, gradient.ndim)))


def check_targets(targets: Tensor, classes: int, top_k: int) -> None:
    """Raise ValueError unless the targets are classes, of which `top_k` can be wrong."""
    if targets.is_floating_point():
        raise ValueError("large margin needs class labels as targets, got values: choose another penalty")
    if top_k >= classes:
        raise ValueError(f"top_k must be at most {classes - 1}, one less than the classes, got {top_k}")


def check_layers(layers: Sequence[str]) -> None:
    """Raise ValueError unless it is a list of names, each once, at least one."""
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
        raise ValueError(f"layers must be a list of 'inputs' and names of layers, each once, got {layers!r}")
