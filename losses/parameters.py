"""Which parameters are weights, by which a layer multiplies, and which are trained; those of a stack of models."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.weak import WeakTensorKeyDictionary

from .forward import Forward


class StackedParameter(nn.Parameter):
    """A parameter of K models, (K, *shape)."""


def for_models(values: Tensor, like: Tensor) -> Tensor:
    """Return one number for each model, (K,), so that it multiplies a parameter (K, *shape)."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters by which a layer multiplies, each once: what `biases=False` leaves in a penalty.

    By their owner: no biases; nothing of a normalisation layer, whatever its shape; of a weight norm the direction, not
    the length; of a user's own module what is called weight, or has two sizes above 1 (so no layer scale (C, 1, 1)).
    """
    names = _weight_names(model)
    return [param for name, param in model.named_parameters() if name in names]


_NAMES: WeakKeyDictionary[nn.Module, tuple[int, frozenset[str]]] = WeakKeyDictionary()
_IS_WEIGHT = WeakTensorKeyDictionary()  # what was learned of each parameter: `prox_` is given tensors alone


def _weight_names(model: nn.Module) -> frozenset[str]:
    params = dict(model.named_parameters())
    if _NAMES.get(model, (-1,))[0] != len(params):
        for name, param in params.items():
            owner = model.get_submodule(name.rpartition(".")[0])
            _IS_WEIGHT[param] = _is_weight(model, owner, name, param)
        _NAMES[model] = len(params), frozenset(name for name, param in params.items() if _IS_WEIGHT[param])
    return _NAMES[model][1]


def _is_weight(model: nn.Module, owner: nn.Module, path: str, param: Tensor) -> bool:
    parent, _, name = path.rpartition(".")
    siblings = dict(owner.named_parameters(recurse=False))
    if isinstance(owner, ParametrizationList):  # at X.parametrizations.weight.original1, of the layer X
        name, owner = parent.rpartition(".")[2], model.get_submodule(parent.rpartition(".parametrizations")[0])
        if param.numel() < max(one.numel() for one in siblings.values()):  # the length of a weight norm
            return False
    if "bias" in name or any("norm" in kind.__name__.lower() for kind in type(owner).__mro__):
        return False
    if (name.endswith("_g") and f"{name[:-1]}v" in siblings) or _dimensions(param) < 2:
        return False
    sizes = param.shape[isinstance(param, StackedParameter) :]
    return "weight" in name or sum(size > 1 for size in sizes) > 1


def chosen_of(forward: Forward, biases: bool) -> list[Tensor]:
    """Return the trained parameters of a pass, without biases and gains unless they are asked for."""
    params = {name: param for name, param in forward.params.items() if not is_frozen(param)}
    if biases:
        return [*params.values()]
    names = _weight_names(forward.model)
    return [param for name, param in params.items() if name in names]


def chosen(params: Iterable[Tensor], biases: bool) -> list[Tensor]:
    """Return the same of parameters alone, whose layers `weights_of`, or a penalty evaluated on their model, has shown.

    Raises:
        ValueError: if biases are to be left out and a parameter's layer is not known.
    """
    return [param for param in params if not is_frozen(param) and (biases or _counts(param))]


def _counts(param: Tensor) -> bool:
    if param not in _IS_WEIGHT:
        raise ValueError(
            "biases=False must know the layer of each parameter, got one of a model not seen: call weights_of(model) "
            "once, before the first step"
        )
    return _IS_WEIGHT[param]


def _dimensions(param: Tensor) -> int:
    return param.ndim - isinstance(param, StackedParameter)


def is_frozen(param: Tensor) -> bool:
    """Tell whether training is to leave a parameter as it is; a plain tensor has no such mark."""
    return isinstance(param, nn.Parameter) and not param.requires_grad
