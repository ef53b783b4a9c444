"""A trained network that takes raw inputs: its normalisation is part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data import Dataset, normalized
from runner.evaluation.evaluate import BATCH


class Predictor(nn.Module):
    """A trained network with the normalisation of its training split.

        outputs = network((inputs - offset) / scale)

    It computes as the evaluation of a run does, in batches of the same size, so that it gives the same bits (on the
    same kind of device, with as many threads). Its parameters need no gradient; the outputs can be differentiated by
    the inputs.

    Args:
        network: takes normalised inputs (B, *I), gives outputs (B, C).
        input_shape: *I, the shape of one example.
        offset, scale: of the normalisation, float64, one number each or of shape *I.
        channels_last: whether images are laid out channels last, as they were in training.

    Raises:
        ValueError: in `forward`, for inputs of another shape than (N, *I).
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, *, input_shape: Sequence[int], offset: Tensor, scale: Tensor, channels_last: bool
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.input_shape, self.channels_last = tuple(input_shape), channels_last
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (N, C) for raw inputs (N, *I), in the units of the data: images of bytes are 0 to 255.

        Args:
            inputs: a tensor, or an array of numpy.
        """
        inputs = torch.as_tensor(inputs)
        if tuple(inputs.shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ValueError(f"inputs must be of shape (N, {wanted}), got {tuple(inputs.shape)}")
        ready = normalized(inputs.to(self.offset.device), self.offset, self.scale, self.offset.device)
        if self.channels_last:
            ready = ready.contiguous(memory_format=torch.channels_last)
        return torch.cat([self.network(batch) for batch in ready.split(BATCH)])


def facts_of(dataset: Dataset, channels_last: bool) -> dict[str, Any]:
    """Return what a predictor needs beside the weights, as plain data for a checkpoint."""
    assert dataset.exact is not None  # `prepare` has made it
    offset, scale = dataset.exact
    return {
        "input_shape": list(dataset.shape),
        "outputs": dataset.outputs,
        "offset": offset,
        "scale": scale,
        "channels_last": channels_last,
    }
