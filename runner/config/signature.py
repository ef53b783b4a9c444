"""Options against a constructor's own annotated arguments."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from typing import Any, Literal

from runner.config.rules import correction
from runner.config.tree import as_yaml

UNIONS = (typing.Union, types.UnionType)
WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a word", type(None): "null"}


def problems_of_options(
    path: str, target: Callable, options: Mapping[str, Any], given: Sequence[str] = ()
) -> list[str]:
    """Return a sentence for each option that the target does not take, lacks, or takes of another type.

    Args:
        path: where in the config the options stand, for the sentences.
        target: the class or function that they are meant for.
        options: names and values.
        given: arguments that the runner hands over itself.
    """
    parameters = parameters_of(target)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    hints = _annotations_of(target)
    names = [name for name in parameters if name not in given]
    problems = []
    for name, value in options.items():
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"did you mean {path}.{near[0]}?" if near else "it takes " + (", ".join(names) or "no options")
            problems.append(f"{path}.{name} is not an option of {path}: {hint}")
        elif name in hints and not _matches_annotation(value, hints[name]):
            remedy = correction(f"{path}.{name}", value, partial(_matches_annotation, annotation=hints[name]))
            problems.append(f"{path}.{name} must be {_describe(hints[name])}, got {as_yaml(value)}{remedy}")
    if lacking := [name for name in given if name not in parameters]:
        remedy = "add arguments of that name to its constructor" + (", or use model=module" if path == "model" else "")
        problems.append(f"{path} must take {' and '.join(lacking)}, which the runner gives it: {remedy}")
    for name in names:
        if parameters[name].default is inspect.Parameter.empty and name not in options:
            problems.append(f"{path}.{name} is missing")
    return problems


@cache
def parameters_of(target: Callable) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a class or a function; remembered, since torch's own take milliseconds to read."""
    return inspect.signature(target).parameters


def _annotations_of(target: Callable) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}


def _matches_annotation(value: Any, annotation: Any) -> bool:
    """Tell whether a value from YAML fits an annotation; what YAML cannot express is not checked."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in UNIONS:
        return any(_matches_annotation(value, argument) for argument in arguments if _has_yaml_form(argument))
    if origin is Literal:
        return any(type(value) is type(argument) and value == argument for argument in arguments)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return type(value) in (int, float)
    if annotation in (int, bool, str):
        return type(value) is annotation
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and _members_match(value, origin, arguments)
    if origin in (dict, Mapping) or annotation is dict:
        return isinstance(value, dict)
    return True


def _members_match(values: list, origin: Any, arguments: tuple) -> bool:
    if origin is tuple and Ellipsis not in arguments:
        return len(values) == len(arguments) and all(map(_matches_annotation, values, arguments))
    return all(_matches_annotation(value, arguments[0]) for value in values) if arguments else True


def _has_yaml_form(annotation: Any) -> bool:
    """Tell whether YAML can express a member of a union; where it cannot (a Tensor), the other members decide."""
    return not inspect.isclass(annotation) or annotation in (*WORDS, list, tuple, dict)


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in UNIONS:
        return " or ".join(dict.fromkeys(_describe(argument) for argument in arguments if _has_yaml_form(argument)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (list, tuple, Sequence):
        return "a list" + (f" of {_describe(arguments[0])}" if arguments else "")
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
