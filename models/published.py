"""The convolutional networks of the sources, each with its own input size."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from models.layers import Feedforward, check_sizes, dropout_layer, scaled, times

FITTING: dict[tuple[int, ...], str] = {
    (1, 28, 28): "model=mnist_convnet, ",
    (3, 32, 32): "model=cifar10_convnet, ",
}


class MNISTConvnet(Feedforward):
    """The network of EE-559's lecture 5.3 on 1x28x28 images: 2 convolutions, 2 linear layers, ReLU.

    conv 1-32 k5, max-pool 3, ReLU, conv 32-64 k5, max-pool 2, ReLU, linear 256-200, ReLU, linear 200-10.
    Layers: conv1 pool1 relu1 conv2 pool2 relu2 flatten fc1 relu3 [dropout] fc2 [log_softmax].

    Args:
        input_shape: shape of one example, (1, 28, 28).
        outputs: number of outputs C (at least 1).
        width: multiplies the hidden sizes 32, 64 and 200 (positive; 1 is the lecture's).
        dropout: probability of zeroing each input of the last layer in training (0 <= p < 1; 0 is the lecture's).
        log_softmax: whether the outputs are log-probabilities.

    Raises:
        ValueError: another input shape, no output, or a width that is not positive and finite.

    Source: F. Fleuret, EE-559 Deep Learning, EPFL, lecture 5.3.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        outputs: int,
        width: float = 1.0,
        dropout: float = 0.0,
        log_softmax: bool = False,
    ) -> None:
        check_images("MNISTConvnet", (1, 28, 28), input_shape)
        check_sizes(outputs, width)
        super().__init__(lecture_layers(1, outputs, width, dropout), log_softmax)


class CIFAR10Convnet(Feedforward):
    """A small network on 3x32x32 images, in one of two published shapes.

    `question`: conv 3-32 k5, max-pool 2, ReLU, conv 32-64 k5, max-pool 2, ReLU, linear 1600-10.
    Layers: conv1 pool1 relu1 conv2 pool2 relu2 flatten [dropout] fc1 [log_softmax].
    `lecture`: `MNISTConvnet` with 3 input channels; 32x32 pixels leave the same 2x2 per channel, so its
    linear layer has 256 inputs here too. Layers: those of `MNISTConvnet`.

    Args:
        input_shape: shape of one example, (3, 32, 32).
        outputs: number of outputs C (at least 1).
        shape: which of the two.
        width: multiplies the hidden sizes (positive; 1 is the source's).
        dropout: probability of zeroing each input of the last layer in training (0 <= p < 1; 0 is the source's).
        log_softmax: whether the outputs are log-probabilities.

    Raises:
        ValueError: another input shape, another `shape`, no output, or a width not positive and finite.

    Source: forum question "Activation gradient penalty" (stackoverflow.com/q/57310682); EE-559, lecture 5.3.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        outputs: int,
        shape: Literal["question", "lecture"] = "question",
        width: float = 1.0,
        dropout: float = 0.0,
        log_softmax: bool = False,
    ) -> None:
        check_images("CIFAR10Convnet", (3, 32, 32), input_shape)
        check_sizes(outputs, width)
        if shape not in ("question", "lecture"):
            raise ValueError(f"shape must be question or lecture, got {shape}")
        build = question_layers if shape == "question" else lecture_layers
        super().__init__(build(3, outputs, width, dropout), log_softmax)


class LargeMarginConvnet(Feedforward):
    """The MNIST network of the large-margin reference: padded convolutions, optional batch norm.

    Twice (conv k5 with padding, ReLU, max-pool 2, batch norm): 32 and 64 channels; linear 3136-512, ReLU,
    linear 512-10. As in the reference the convolutions have biases only where no batch norm follows, and no
    batch norm follows the linear layers. The reference measures margins at the inputs and after each block: norm1
    and norm2, or pool1 and pool2 without batch norm.
    Layers: conv1 relu1 pool1 [dropout1] [norm1] conv2 relu2 pool2 [dropout2] [norm2] flatten fc1 relu3 fc2
    [log_softmax].

    Args:
        input_shape: shape of one example, (1, 28, 28).
        outputs: number of outputs C (at least 1).
        batch_norm: whether each convolutional block ends in batch normalisation.
        width: multiplies the hidden sizes 32, 64 and 512 (positive; 1 is the reference's).
        dropout: probability of zeroing each number after a pooling in training (0 <= p < 1), where the reference's
            code has it.
        log_softmax: whether the outputs are log-probabilities.

    Raises:
        ValueError: another input shape, no output, or a width that is not positive and finite.

    Source: Elsayed et al. 2018, arXiv 1803.05598, and their public code (google-research, large_margin).
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        outputs: int,
        batch_norm: bool = True,
        width: float = 1.0,
        dropout: float = 0.0,
        log_softmax: bool = False,
    ) -> None:
        check_images("LargeMarginConvnet", (1, 28, 28), input_shape)
        check_sizes(outputs, width)
        channels, hidden = (scaled(32, width), scaled(64, width)), scaled(512, width)
        layers: dict[str, nn.Module] = {}
        for i, (before, after) in enumerate(zip((1, channels[0]), channels, strict=True), start=1):
            layers[f"conv{i}"] = nn.Conv2d(before, after, kernel_size=5, padding="same", bias=not batch_norm)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            layers |= dropout_layer(dropout, f"dropout{i}")
            if batch_norm:
                layers[f"norm{i}"] = nn.BatchNorm2d(after)
        layers |= {
            "flatten": flatten(),
            "fc1": nn.Linear(channels[1] * 7 * 7, hidden),
            "relu3": nn.ReLU(),
            "fc2": nn.Linear(hidden, outputs),
        }
        super().__init__(layers, log_softmax)


def question_layers(channels: int, outputs: int, width: float, dropout: float) -> dict[str, nn.Module]:
    """The layers of the forum question "Activation gradient penalty", for 32x32 pixels."""
    first, second = scaled(32, width), scaled(64, width)
    return (
        block(1, channels, first, pool=2)
        | block(2, first, second, pool=2)
        | {"flatten": flatten(), **dropout_layer(dropout), "fc1": nn.Linear(second * 5 * 5, outputs)}
    )


def lecture_layers(channels: int, outputs: int, width: float, dropout: float) -> dict[str, nn.Module]:
    """The layers of lecture 5.3, for 28x28 or 32x32 pixels: both leave 2x2 per channel."""
    first, second, hidden = scaled(32, width), scaled(64, width), scaled(200, width)
    return (
        block(1, channels, first, pool=3)
        | block(2, first, second, pool=2)
        | {
            "flatten": flatten(),
            "fc1": nn.Linear(second * 2 * 2, hidden),
            "relu3": nn.ReLU(),
            **dropout_layer(dropout),
            "fc2": nn.Linear(hidden, outputs),
        }
    )


def block(index: int, before: int, after: int, pool: int) -> dict[str, nn.Module]:
    """Convolution, max-pooling, ReLU, in the sources' order."""
    return {
        f"conv{index}": nn.Conv2d(before, after, kernel_size=5),
        f"pool{index}": nn.MaxPool2d(pool),
        f"relu{index}": nn.ReLU(),
    }


def flatten() -> nn.Module:
    """Flatten (..., C, H, W) to (..., C*H*W), in that order whatever the memory layout.

    It copies where the layout is channels_last: the last feature maps only, a few hundred numbers per
    example. Counted from the end, so that one example without a batch dimension passes too.
    """
    return nn.Flatten(start_dim=-3)


def check_images(model: str, takes: tuple[int, ...], got: Sequence[int]) -> None:
    """Raise ValueError unless the images have the size that the fixed linear layers need."""
    if tuple(got) != takes:
        choose = FITTING.get(tuple(got), "") + ("model=convnet or model=mlp" if len(got) in (2, 3) else "model=mlp")
        raise ValueError(f"{model} takes {times(takes)} inputs, got {times(got)}: choose {choose}")
