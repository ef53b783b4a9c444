"""Configs as plain trees of dicts, lists and values: walk through one, look up a path, write a value as YAML does."""

import os
import re
from typing import Any


def walk(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return (path, value) of all nodes below, depth first; members of a list go by their index."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = []
    for key, value in children:
        inner = f"{path}.{key}" if path else str(key)
        found += [(inner, value), *walk(value, inner)]
    return found


def value_at(node: Any, path: str) -> Any:
    """Return the value at a path such as "optimizer.lr", None if there is none; the whole tree at the path ""."""
    for key in path.split(".") if path else ():
        node = node.get(key) if isinstance(node, dict) else None
    return node


def with_home(node: Any) -> Any:
    """Return a tree whose texts that begin with ~/ name the home folder, as the shell would have it."""
    if isinstance(node, dict):
        return {key: with_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [with_home(value) for value in node]
    return os.path.expanduser(node) if isinstance(node, str) and re.match(r"~[\w.-]*(/|$)", node) else node


def as_yaml(value: Any) -> str:
    """Return a value as YAML writes it, strings in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) else str(value)


def as_typed(value: Any) -> str:
    """Return a value as it is typed: without quotes around the words of a list and the keys of a mapping."""
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_typed(member)}" for key, member in value.items()) + "}"
    return value if isinstance(value, str) else as_yaml(value)
