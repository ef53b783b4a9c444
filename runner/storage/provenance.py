"""What a result depends on beside its config."""

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch


def provenance(device: torch.device) -> dict[str, Any]:
    """Return the versions, the commit of this repository, the threads and the device."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "git_commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


@cache
def commit() -> str:
    """Return the commit of this repository, marked if files differ from it; asked once, since it starts a process."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:  # no git on this machine
        return "unknown"
