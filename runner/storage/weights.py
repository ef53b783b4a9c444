"""The weights of a trained network: read from a run or a file, written for other programs, and known by a digest.

The digest, a sha256 of names, shapes and bytes, is the same wherever the weights lie. A run that starts from them has
it in its id, which is needed before torch is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.storage.atomic import read_json, write_atomic
from runner.storage.status import Status

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "network."  # of the network's tensors in a file, which holds its normalisation too
SHOWN = 3  # misfits in a sentence


def digest_of(state: Mapping[str, Any]) -> str:
    """Return the digest of a network's state, on any device and in any memory layout."""
    import torch

    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return _digest(
        (name, tensor.shape, tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for name, tensor in tensors.items()
    )


def digest_at(source: str) -> str:
    """Return the digest of the weights that `init_from` names, without torch.

    Args:
        source: as for `read`.

    Raises:
        ValueError: if there are none; one sentence.
    """
    path = _located(source)
    if path.is_dir():
        return _recorded_digest(path)
    facts = path.stat()
    return _digest_of_file(path, facts.st_mtime_ns, facts.st_size)


def _digest(named: Iterable[tuple[str, Sequence[int], Any]]) -> str:
    facts = sorted([name, list(shape), hashlib.sha256(content).hexdigest()] for name, shape, content in named)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _recorded_digest(run: Path) -> str:
    try:
        result = read_json(run / "result.json")
    except FileNotFoundError:
        result = {}
    except OSError as error:
        raise ValueError(f"init_from must be a run that can be read, got {run}: {error.strerror}") from error
    found = result.get("weights_sha256") if isinstance(result, dict) else None
    if not isinstance(found, str) or result.get("status") != Status.DONE:
        raise ValueError(f"init_from must be a run that is done, or a .safetensors file, got {run}: train it first")
    return found


@cache
def _digest_of_file(path: Path, modified: int, size: int) -> str:
    """Return the digest of a file's weights, read once as long as time and size stay the same."""
    from safetensors import deserialize

    found = _of_network(dict(_refusing(deserialize, path)))
    return _digest((name, facts["shape"], facts["data"]) for name, facts in found.items())


def read(source: str) -> dict[str, Tensor]:
    """Return the weights that `init_from` names, by the names of the network.

    Args:
        source: the directory of a run that is done, of which these are the last weights, or a .safetensors file; or a
            pattern with `*` that fits one of these alone.

    Raises:
        ValueError: if there are none, or if the run's checkpoint is not the one of its result; one sentence.
    """
    path = _located(source)
    if not path.is_dir():
        from safetensors.torch import load

        return _of_network(_refusing(load, path))
    from runner.storage import checkpoint

    recorded, state = _recorded_digest(path), checkpoint.load(path)
    if state is None or digest_of(state["loop"]["model"]) != recorded:
        fault = f"got {path}: train it again with force=true"
        raise ValueError(f"init_from must be a run with the checkpoint of its end, {fault}")
    return state["loop"]["model"]


def write(
    path: Path, network: Mapping[str, Tensor], normalisation: Mapping[str, Tensor], facts: dict[str, str]
) -> None:
    """Write weights and normalisation as a .safetensors file, whole or not at all.

    Args:
        path: the file.
        network: the network's state by name; in the file each name has `network.` before it.
        normalisation: offset and scale.
        facts: the file's metadata.

    Raises:
        ValueError: for a state that is no tensor.
        WriteError: if the system refuses.
    """
    from safetensors.torch import save

    tensors = {**normalisation, **{PREFIX + name: value for name, value in network.items()}}
    if odd := [name for name, value in tensors.items() if not hasattr(value, "untyped_storage")]:
        raise ValueError(f"safetensors holds tensors alone, got {odd[0]} of type {type(tensors[odd[0]]).__name__}")
    # Weights that two layers share are written twice: safetensors refuses memory that is shared.
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(plain, facts))


def misfit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in what names or shapes the weights found are not those wanted; nothing if they fit."""
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"there is no {name} in the model" for name in found if name not in wanted]
    shapes = {name: (_times(found[name]), _times(wanted[name])) for name in wanted if name in found}
    wrong += [f"{name} is {there}, and {here} in the model" for name, (there, here) in shapes.items() if there != here]
    return "; ".join(wrong[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")


def _times(tensor: Tensor) -> str:
    return "x".join(map(str, getattr(tensor, "shape", ()))) or "a number"


def _located(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        found = [path] if path.exists() else [Path(name) for name in glob(str(path))]
        fault = f"{len(found)} fit it" if found else "there is none"
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, with a byte 0
        found, fault = [], str(error)
    if len(found) != 1:
        raise ValueError(f"init_from must be the directory of a run or a .safetensors file, got {source}: {fault}")
    return found[0].resolve()


def _refusing(reader: Any, path: Path) -> Any:
    from safetensors import SafetensorError

    try:
        return reader(path.read_bytes())
    except (OSError, SafetensorError) as error:
        wanted = "the directory of a run or a .safetensors file"
        raise ValueError(f"init_from must be {wanted}, got {path}: {error}") from error


def _of_network(tensors: Mapping[str, Any]) -> dict[str, Any]:
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    return own or dict(tensors)


def start_from(source: str | None, model: nn.Module) -> None:
    """Replace a model's weights by those of a run's directory or a file, `init_from`; none: they stay.

    Raises:
        ValueError: if there are none, or if they do not fit; one sentence.
    """
    if source is not None:
        found = read(source)
        if wrong := misfit(found, model.state_dict()):
            raise ValueError(f"init_from must be weights that fit the model, got {source}: {wrong}")
        model.load_state_dict(found)
