"""TensorBoard, started for a folder and asked over HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

READERS = {"fast": "true", "python": "false"}  # the two that TensorBoard has, by its option --load_fast


class Board:
    """A server of TensorBoard's.

    Args:
        url: its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        address = f"{self.url}/data/{path}" + (f"?{urlencode(query)}" if query else "")
        with urllib.request.urlopen(address, timeout=20) as answer:
            content = answer.read()
            return json.loads(content) if "json" in answer.headers["Content-Type"] else content

    def post(self, path: str, **content: object) -> Any:
        request = urllib.request.Request(
            f"{self.url}/data/{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def wait_for(self, run: str, tag: str, step: int) -> list[list[float]]:
        """Return the scalars of a tag, once this step is there."""
        end = time.monotonic() + 60
        points: list[list[float]] = []
        while time.monotonic() < end:
            try:
                points = self.get("plugin/scalars/scalars", run=run, tag=tag)
                if points and points[-1][1] >= step:
                    return points
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        raise AssertionError(f"{run} {tag}: step {step} did not appear, only {points}")


@contextmanager
def serving(directory: Path, reader: str) -> Iterator[Board]:
    """Start TensorBoard with one of its two readers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory), "--port", str(port)]
    command += [f"--load_fast={READERS[reader]}", "--reload_interval=1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield Board(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
