"""The command lines of README and docs: found by themselves, and run in their order in a clone, as a reader types them.

A page's commands are the lines of its code blocks, and the words between backticks, that begin with a program
(`PROGRAMS`), and its blocks of Python, but for those that are files (`# mine/network.py` in their first line).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("uv", "pip", "python", "python3", "bash", "sh", "git", "ray", "sbatch", "tensorboard", "apptainer")
LANGUAGES = ("", "bash", "sh", "shell", "console", "text")  # of fenced blocks whose lines may be commands
FILES = r"csv|md|png|json|yaml|log|safetensors|npz|journal|txt|html"


class Command(NamedTuple):
    """A command of a page, and the number of its line; or a block of Python, with all that stand before it."""

    line: int
    text: str
    is_python: bool = False


def commands_of(text: str) -> list[Command]:
    """Return the commands of a page in their order; one that is repeated between backticks counts once."""
    lines, blocks = text.splitlines(), _code_lines(text)
    found = []
    for number, code in blocks.items():
        if code is not None and _is_command(code):
            while code.endswith("\\"):
                number += 1
                code = code[:-1] + blocks.get(number, lines[number - 1]).strip()  # type: ignore[union-attr]
            found.append(Command(number, code))
    prose = "\n".join("" if number in blocks else line for number, line in enumerate(lines, 1))
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", prose):
        code = " ".join(match[1].split())
        if _is_command(code) and not any(code == other.text for other in found):
            found.append(Command(prose.count("\n", 0, match.start()) + 1, code))
    return sorted(found + _python_of(text))


def _python_of(text: str) -> list[Command]:
    """Return the blocks of Python; each needs what those before it have made."""
    found, script = [], ""
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        if not re.match(r"# \S+\.py\n", match[1]):
            script += match[1]
            found.append(Command(text.count("\n", 0, match.start()) + 1, script, is_python=True))
    return found


def _code_lines(text: str) -> dict[int, str | None]:
    """Return the lines of code blocks by their numbers, without the indent; None for a language that is no shell's."""
    found: dict[int, str | None] = {}
    fence, may_indent = None, True
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fence, found[number] = (line[3:].strip() if fence is None else None), None
        elif fence is not None:
            found[number] = line if fence in LANGUAGES else None
        elif line.startswith("    ") and may_indent:
            found[number] = line[4:]
        may_indent = not line.strip() or number in found
    return found


def _is_command(code: str) -> bool:
    """Tell whether a line begins with a program that is given something to do."""
    words = [word for word in code.removeprefix("$ ").split() if not re.match(r"[A-Z_]+=", word)]
    return len(words) > 1 + (words[:2] == ["uv", "run"]) and (words[0] in PROGRAMS or re.match(r"scripts/\w", words[0]))


def output_lines(text: str) -> list[str]:
    """Return what a page says that its commands print: lines of code blocks below a command, but for formulas."""
    printed, after_command, line_continues, blocks = [], False, False, _code_lines(text)
    for number, line in enumerate(text.splitlines(), 1):
        code = blocks.get(number)
        if line.startswith(("#", "```")):
            after_command = False
        elif code and (_is_command(code) or line_continues):
            after_command = True
        elif code and after_command and not re.match(r"\s|[\w/<>]+ = ", code):
            printed.append(code)
        line_continues = line.endswith("\\")
    return printed


def file_names(text: str) -> set[str]:
    """Return the names of files between backticks."""
    return set(re.findall(rf"`([\w.-]+\.(?:{FILES}))`", text))


class Clone:
    """A copy of the repository's files, in which commands are run as a reader runs them."""

    def __init__(self, folder: Path) -> None:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).exists():  # or it was removed and the change not committed yet
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        self.folder, self.output = folder, ""
        # Of the variables only those that a reader's shell has; the packages are those of this process.
        ours = re.compile(r"(OMP|GOMP|MKL|PYTEST|PYTHON|HYDRA|COV|UV_RUN|VIRTUAL_ENV|COLUMNS|CUDA_VISIBLE)")
        self.variables = {key: value for key, value in os.environ.items() if not ours.match(key)}
        self.variables |= {"UV_PROJECT_ENVIRONMENT": sys.prefix, "UV_NO_SYNC": "1"}

    def run(self, command: str, timeout: float, is_python: bool = False) -> str:
        """Run a command, and return what is wrong with how it ended, or nothing."""
        began = time.monotonic()
        try:
            done = subprocess.run(
                ["uv", "run", "python", "-c", command] if is_python else ["bash", "-c", command],
                cwd=self.folder,
                env=self.variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return f"did not end within {timeout:.0f} s"
        self.output += done.stdout
        if done.returncode or "Traceback" in done.stdout:
            return f"exit code {done.returncode} after {time.monotonic() - began:.0f} s:\n{done.stdout[-2000:]}"
        return ""

    def serve(self, command: str, timeout: float) -> str:
        """Start a server, wait until it names its address, and end it; return what is wrong, or nothing."""
        started = subprocess.Popen(
            ["bash", "-c", f"exec timeout {timeout:.0f} {command} --port 0"],  # a free one: 6006 may be taken
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with started:
            lines = []
            for line in started.stdout or ():
                lines.append(line)
                if "http://" in line:
                    break
            started.terminate()
        return "" if lines and "http://" in lines[-1] else f"named no address:\n{''.join(lines)}"

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return any(self.folder.rglob(name))
