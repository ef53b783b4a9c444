"""Networks of a user's own that know nothing of this library."""

from collections.abc import Sequence

from torch import nn


def own_network(network: nn.Module, *, input_shape: Sequence[int], outputs: int) -> nn.Module:
    """Return a network as it is, under its own names; the runner sees that it takes the data.

    Other models are built from the shape of the data. This one is already built, by its class and the arguments that
    the config gives it; `input_shape` and `outputs` are not needed.

    Args:
        network: any module of inputs (B, *I) -> outputs (B, C).
        input_shape, outputs: ignored.

    Raises:
        ValueError: no network.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be {{_target_: package.Class, and its arguments}}, got {network}")
    return network
