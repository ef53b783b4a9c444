"""The convolutional classifiers of torchvision, by name."""

from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from models.layers import check_sizes, is_piecewise_linear, times

ATTENTION = ("vit_", "swin_", "maxvit")
# They have further outputs in training, and say in a warning that their initialisation is slow.
OPTIONS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}


def torchvision_classifier(*, input_shape: Sequence[int], outputs: int, name: str) -> nn.Module:
    """Build a convolutional classifier of torchvision, with random weights, for these images and classes.

    Layers: torchvision's own, such as conv1, layer1.0.conv2, fc of a resnet. With other than 3 channels the first
    convolution is another one, drawn as torch draws it.

    Args:
        input_shape: shape of one image, (C, H, W); many need a certain least size.
        outputs: number of outputs (at least 1).
        name: such as resnet18, vgg11_bn, densenet121, mobilenet_v3_small, squeezenet1_1, efficientnet_b0,
            convnext_tiny.

    Raises:
        ValueError: inputs that are no images, no output, or a name that torchvision does not have for a convolutional
            classifier.

    Source: torchvision.models, where each names its paper.
    """
    check_sizes(outputs, 1.0)
    if len(input_shape) != 3:
        raise ValueError(f"torchvision takes images CxHxW, got {times(input_shape)} inputs: choose model=mlp")
    from torchvision import models as published  # late: pulls torch._dynamo, seconds

    names = [known for known in published.list_models(module=published) if not known.startswith(ATTENTION)]
    if name not in names:
        one_a_family = {known.partition("_")[0].rstrip("0123456789"): known for known in names}
        near = get_close_matches(name, names, 5) or one_a_family.values()
        raise ValueError(f"name must be a convolutional classifier of torchvision, as {', '.join(near)}, got {name}")
    model = published.get_model(name, weights=None, num_classes=outputs, **OPTIONS.get(name, {}))
    adapt_channels(model, input_shape[0])
    vars(model).update(piecewise_linear=is_piecewise_linear(model), log_probabilities=False)
    return model


def adapt_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one of that many input channels, if it has another number."""
    name, old = next((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(parent), own_name, new)
