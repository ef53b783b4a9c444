"""Open a folder of runs in TensorBoard in a real browser, check its pages, and save pictures of them.

    python .ci/browser.py RUNS_DIR OUT_DIR

Needs the programs `chromium` and `chromedriver` (Debian: chromium, chromium-driver). The expected runs and tags
are read from the event files. Exit code 1 and one sentence if a page does not show them.
"""

import base64
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams import metadata

FLAGS = [
    "--headless",
    "--no-sandbox",  # the sandbox does not work as root, as in most containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,2400",
]
PATIENCE = 60.0  # seconds until a page must show everything
AT_ONCE = 12  # number of tags that TensorBoard shows on one page

# The visible text of the page, with `[picture]` for each loaded image. TensorBoard's elements have their text in shadow
# roots and split a tag over several of them, so separators and spaces are left out.
PAGE_TEXT = """
let text = '';
const visit = node => {
  if (node.nodeType === Node.TEXT_NODE) text += node.textContent;
  if (['SCRIPT', 'STYLE', 'TEMPLATE', 'NOSCRIPT'].includes(node.nodeName)) return;
  if (node.nodeType === Node.ELEMENT_NODE && getComputedStyle(node).display === 'none') return;
  if (node.nodeName === 'IMG' && node.naturalWidth > 0) text += '[picture]';
  for (const child of [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes]) visit(child);
};
visit(document.body);
return text.replace(/\\s+/g, '');
"""


class Missing(Exception):
    """A page does not show something; the message says what."""


@contextmanager
def process(command: list[str], log: Path) -> Iterator[None]:
    """Run a program in the background, and end it afterwards."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as running:
        try:
            yield
        finally:
            running.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def request(url: str, content: object = None, method: str | None = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=PATIENCE) as answer:
        return json.load(answer)


def wait(what: str, ready: Callable[[], Any]) -> Any:
    """Return the first true value of `ready`; a refused connection counts as not ready.

    Raises:
        TimeoutError: if there is none in time.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if value := ready():
                return value
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{what} within {PATIENCE:.0f} s")


class Browser:
    """Chromium, controlled by the WebDriver protocol."""

    def __init__(self, driver: str, profile: str) -> None:
        wait("chromedriver does not answer", lambda: request(f"{driver}/status")["value"]["ready"])
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self.session = f"{driver}/session/{request(f'{driver}/session', capabilities)['value']['sessionId']}"

    def open(self, url: str) -> None:
        request(f"{self.session}/url", {"url": url})

    def run(self, script: str) -> Any:
        return request(f"{self.session}/execute/sync", {"script": script, "args": []})["value"]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(request(f"{self.session}/screenshot")["value"]))

    def quit(self) -> None:
        request(self.session, method="DELETE")


def recorded(runs: Path) -> dict[str, list[str]]:
    """Return the content of the event files: names of runs, tags of numbers and pictures, hyperparameters."""
    found: dict[str, set[str]] = {"runs": set(), "numbers": set(), "pictures": set(), "hyperparameters": set()}
    for path in runs.rglob("*tfevents*"):
        found["runs"].add(path.parent.relative_to(runs).as_posix())
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found["numbers"].add(value.tag)
                elif value.WhichOneof("value") == "image":
                    found["pictures"].add(value.tag)
                elif value.tag == metadata.SESSION_START_INFO_TAG:
                    content = value.metadata.plugin_data.content
                    found["hyperparameters"] |= set(metadata.parse_session_start_info_plugin_data(content).hparams)
    for kind, names in found.items():
        if not names:
            raise Missing(f"the event files in {runs} contain no {kind}")
    return {kind: sorted(names) for kind, names in found.items()}


def pages(names: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the pages, by the end of their address, and the names that each must show."""
    numbers = [tag for tag in names["numbers"] if not tag.startswith(("weights/", "gradients/"))][:AT_ONCE]
    groups = {tag.split("/")[0] for tag in numbers}
    pictures = names["pictures"][:AT_ONCE]
    chosen = urllib.parse.quote("^(" + "|".join(map(re.escape, numbers)) + ")$", safe="")
    return {
        # SVG, because lines drawn by WebGL are invisible without a GPU
        f"?forceSVG=true&tagFilter={chosen}#timeseries": [*names["runs"], *numbers],
        "#scalars": [*names["runs"], *groups],
        "#custom_scalars": [*names["runs"], "train against test"],
        "#images": [*names["runs"], *pictures[:1], "[picture]"],
        "#distributions": [*names["runs"], "losses"],
        "#histograms": [*names["runs"], "losses"],
        "#hparams": [*names["hyperparameters"], *(tag for tag in numbers if tag.startswith("Test/"))],
    }


def look(browser: Browser, site: str, page: str, names: list[str], picture: Path) -> None:
    """Open a page, wait until it shows all names, and save a picture of it.

    Raises:
        Missing: if it does not show them in time.
    """
    wanted = {name: "".join(name.split()) for name in names}
    missing = list(names)

    def shown() -> bool:
        text = browser.run(PAGE_TEXT)
        missing[:] = [name for name, compact in wanted.items() if compact not in text]
        return not missing

    browser.open("about:blank")  # a change of the fragment alone would not load the page again
    browser.open(f"{site}/{page}")
    try:
        wait("", shown)
    except TimeoutError:
        raise Missing(f"TensorBoard's page {page} does not show {', '.join(missing)}") from None
    finally:
        time.sleep(1.0)  # the charts fade in
        browser.screenshot(picture)


def main(runs: Path, out: Path) -> None:
    names = recorded(runs)
    out.mkdir(parents=True, exist_ok=True)
    server, driver = free_port(), free_port()
    site = f"http://127.0.0.1:{server}"
    with ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        board = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(server)]
        stack.enter_context(process(board, out / "tensorboard.log"))
        stack.enter_context(process(["chromedriver", f"--port={driver}"], out / "chromedriver.log"))
        wait("TensorBoard does not list the runs", lambda: set(request(f"{site}/data/runs")) >= set(names["runs"]))
        browser = Browser(f"http://127.0.0.1:{driver}", profile)
        stack.callback(browser.quit)
        for page, expected in pages(names).items():
            look(browser, site, page, expected, out / f"{page.split('#')[1]}.png")
            print(f"{page.split('#')[1]}: shows {len(expected)} names")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python .ci/browser.py RUNS_DIR OUT_DIR")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (Missing, TimeoutError, OSError) as error:
        sys.exit(f"browser check failed: {error}")
