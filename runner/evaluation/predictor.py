"""A trained network that takes raw inputs: its normalisation is part of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data import Dataset, normalized
from runner.evaluation.evaluate import BATCH


class Predictor(nn.Module):
    """A trained network with the normalisation of its training split.

        outputs = network((inputs - offset) / scale) * target_scale + target_offset

    It computes as the evaluation of a run does, in batches of the same size, so that it gives the same bits (on the
    same kind of device, with as many threads). Its parameters need no gradient; the outputs can be differentiated by
    the inputs.

    Args:
        network: takes normalised inputs (B, *I), gives outputs (B, C).
        input_shape: *I, the shape of one example.
        offset, scale: of the normalisation, float64, one number each or of shape *I.
        target_offset, target_scale: of the targets, (C,) or one number each.
        range: lowest and highest input that there was, one number each or of shape *I (None: not known).
        channels_last: whether images are laid out channels last, as they were in training.

    Raises:
        ValueError: in `forward`, for inputs of another shape than (N, *I), or on another scale than those of training.
    """

    offset: Tensor
    scale: Tensor
    target_offset: Tensor
    target_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        input_shape: Sequence[int],
        offset: Tensor,
        scale: Tensor,
        target_offset: Tensor,
        target_scale: Tensor,
        range: tuple[Tensor | float, Tensor | float] | None,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.input_shape, self.channels_last, self.range = tuple(input_shape), channels_last, range
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)
        self.register_buffer("target_offset", target_offset)
        self.register_buffer("target_scale", target_scale)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (N, C) for raw inputs (N, *I), in the units of the data: images of bytes are 0 to 255.

        Args:
            inputs: a tensor, or an array of numpy.
        """
        inputs = torch.as_tensor(inputs)
        if tuple(inputs.shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ValueError(f"inputs must be of shape (N, {wanted}), got {tuple(inputs.shape)}{self._fix_of(inputs)}")
        if self.range is not None and len(inputs):
            self._check_scale(inputs.detach(), *map(torch.as_tensor, self.range))
        ready = normalized(inputs.to(self.offset.device), self.offset, self.scale, self.offset.device)
        if self.channels_last:
            ready = ready.contiguous(memory_format=torch.channels_last)
        outputs = torch.cat([self.network(batch) for batch in ready.split(BATCH)])
        return outputs * self.target_scale + self.target_offset

    def _fix_of(self, inputs: Tensor) -> str:
        shape = tuple(inputs.shape[1:])
        if len(shape) == 3 and (shape[2], *shape[:2]) == self.input_shape:
            return ": images.transpose(0, 3, 1, 2) puts the channels first"
        return ": images[:, None] adds the axis of the channels" if (1, *shape) == self.input_shape else ""

    def _check_scale(self, inputs: Tensor, low: Tensor, high: Tensor) -> None:
        """Raise ValueError for inputs on another scale than those of training, by their means and extremes."""
        values = inputs.double() if low.dim() else inputs.double().reshape(-1, 1)
        width, mean = high - low, values.mean(0)
        is_off = (mean < low - width / 2) | (mean > high + width / 2)
        if low.dim() == 0:  # an image may be dark or noisy: that alone is no other scale
            span = values.amax() - values.amin()
            is_off |= (span > 0) & (span < width / 20) | (span > 3 * width)
        if is_off.double().mean() > 0.5:
            got = f"{inputs.min():.4g} to {inputs.max():.4g}"
            raise ValueError(
                f"inputs must be on the scale of those in training, {low.min():.4g} to {high.max():.4g}, got {got}: "
                "give them as they stand in the data, neither divided nor normalised"
            )


def facts_of(dataset: Dataset, channels_last: bool) -> dict[str, Any]:
    """Return what a predictor needs beside the weights, as plain data for a checkpoint."""
    assert dataset.exact is not None  # `prepare` has made it
    offset, scale = dataset.exact
    limits = [limit.cpu() if isinstance(limit, Tensor) else limit for limit in dataset.range or ()]
    return {
        "input_shape": list(dataset.shape),
        "outputs": dataset.outputs,
        "offset": offset,
        "scale": scale,
        "target_offset": dataset.target_offset.cpu(),
        "target_scale": dataset.target_scale.cpu(),
        "range": limits or None,
        "channels_last": channels_last,
    }
