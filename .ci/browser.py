"""Open a folder of runs in TensorBoard in Chromium, compare what it shows with the files, and save pictures of it.

    python .ci/browser.py RUNS_DIR OUT_DIR

Needs the program `chromium`. Exit code 1 and one sentence if a chart is empty or does not end at its last value, if no
picture is shown, or if the table of hyperparameters lacks a group of seeds, one of its words or its mean error.
"""

import math
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from playwright.sync_api import Error, Page, sync_playwright
from support.board import serving
from support.records import table, values
from tensorboard.plugins.hparams import metadata

from runner.recording.events import SESSION, rows_of, shown

Points = dict[str, dict[str, tuple[int, float]]]  # tag -> run -> last step and value

AT_ONCE, COLUMNS = 12, 5  # that TensorBoard shows by itself: charts of a page, hyperparameters of the table
PATIENCE = 60.0  # seconds until a page must show everything
ADDRESS = "?smoothing=0&forceSVG=true&tagFilter="  # as a run prints it; SVG, since WebGL draws few charts without a GPU
CHARTS = """() => Object.fromEntries([...document.querySelectorAll('scalar-card')].map(card => [
    card.querySelector('.tag').title,
    [card.querySelectorAll('.series-view > svg > *').length,
     Object.fromEntries([...card.querySelectorAll('tb-data-table-content-row')].map(
        row => [...row.querySelectorAll('.cell')].map(cell => cell.innerText.trim()).slice(1, 3)))]]))"""
PICTURES = "() => [...document.querySelectorAll('image-card img')].filter(image => image.naturalWidth > 0).length"


class Missing(Exception):
    """TensorBoard does not show something; the message says what."""


def recorded(runs: Path) -> tuple[Points, set[str]]:
    """Return the last points of all runs, for which metrics.csv has the last word, and the tags of pictures."""
    last: Points = defaultdict(dict)
    pictures = set()
    for directory in sorted({path.parent for path in runs.rglob("*tfevents*")}):
        run = directory.relative_to(runs).as_posix()
        for tag, points in values(directory).items():
            step, content = max(points, key=lambda point: point[0])
            if isinstance(content, float):
                last[tag][run] = step, content
            elif hasattr(content, "encoded_image_string"):
                pictures.add(tag)
        for row in table(directory) if (directory / "metrics.csv").exists() else ():
            epoch = int(row.pop("epoch"))
            for tag, text in row.items():
                if text:
                    last[shown(tag)][run] = epoch, float(text)
    if not (last and pictures):
        raise Missing(f"the event files in {runs} have no {'pictures' if last else 'numbers'}")
    return last, pictures


def look(page: Page, address: str, problem: Callable[[], str], picture: Path) -> None:
    """Open a page, wait until there is no problem, and save a picture of it.

    Raises:
        Missing: with the problem that is left when patience ends.
    """
    page.goto(address)
    end = time.monotonic() + PATIENCE
    while (text := problem()) and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(0.5)  # the charts fade in
    page.screenshot(path=picture)
    if text:
        raise Missing(text)


def pattern_of(tags: Iterable[str]) -> str:
    """Return a regular expression for tags, as it stands in an address."""
    return quote(f"^({'|'.join(map(re.escape, tags))})$", safe="")


def problem_of_charts(page: Page, expected: Points) -> str:
    """Return which chart is empty, or does not show the last values in the table below it; else nothing."""
    charts = page.evaluate(CHARTS)
    for tag, last in expected.items():
        curves, texts = charts.get(tag, (0, {}))
        if curves == 0 and any(math.isfinite(value) for _, value in last.values()):
            return f"the chart {tag} is empty"
        for run, (_, value) in last.items():
            if not is_shown(value, text := texts.get(run, "nothing")):
                return f"the chart {tag} shows {text} for {value:.4g} of the run {run}"
    return ""


def problem_of_hyperparameters(page: Page, runs: Path, errors: dict[str, tuple[int, float]]) -> str:
    """Return which words, names of groups or means of the errors the table does not show; else nothing."""
    words: set[str] = set()
    keys: set[str] = set()
    seeds = defaultdict(list)
    for path in runs.rglob(SESSION):
        start = metadata.parse_session_start_info_plugin_data(rows_of(path)[0].metadata.plugin_data.content)
        words |= {value.string_value for value in start.hparams.values()} - {""}
        keys |= {*start.hparams}
        run = path.parent.relative_to(runs).as_posix()
        seeds[start.group_name] += [errors[run][1]] if run in errors else []
    cells = [text.strip() for text in page.locator("vaadin-grid-cell-content").all_inner_texts()]
    lost = {*seeds, *(words if len(keys) <= COLUMNS else ())} - {*cells}
    means = {name: fmean(numbers) for name, numbers in seeds.items() if numbers}
    lost |= {f"the mean of {name}" for name, mean in means.items() if not any(is_shown(mean, cell) for cell in cells)}
    return f"the table of hyperparameters does not show {', '.join(sorted(lost))}" if lost else ""


def is_shown(value: float, text: str) -> bool:
    """Tell whether a text is a number's, to four places."""
    try:
        number = float(text.replace("\N{MINUS SIGN}", "-").replace(",", ""))
    except ValueError:
        return False
    return math.isclose(number, value, rel_tol=1e-3, abs_tol=6e-5) or (math.isnan(number) and math.isnan(value))


def main(runs: Path, out: Path) -> None:
    last, pictures = recorded(runs)
    out.mkdir(parents=True, exist_ok=True)
    with serving(runs, "fast") as board, sync_playwright() as player:
        ends = {run: (tag, step) for tag in last for run, (step, _) in last[tag].items()}
        for run, (tag, step) in ends.items():  # a page shows what was read before it was opened
            board.wait_for(run, tag, step)
        arguments = ["--no-sandbox"]  # which does not work as root, as in most containers
        with player.chromium.launch(executable_path="/usr/bin/chromium", args=arguments) as browser:
            page = browser.new_page(base_url=board.url, viewport={"width": 1600, "height": 2800})
            tags, errors = sorted(last), last["Test/error" if "Test/error" in last else "Test/loss"]
            for first in range(0, len(tags), AT_ONCE):
                some = {tag: last[tag] for tag in tags[first : first + AT_ONCE]}
                charts = lambda some=some: problem_of_charts(page, some)  # noqa: E731
                look(page, ADDRESS + pattern_of(some), charts, out / f"numbers-{first // AT_ONCE + 1}.png")
            shown_pictures = lambda: "" if page.evaluate(PICTURES) else "no picture is shown"  # noqa: E731
            look(page, ADDRESS + pattern_of(pictures), shown_pictures, out / "pictures.png")
            look(page, "#hparams", lambda: problem_of_hyperparameters(page, runs, errors), out / "hparams.png")
    print(f"TensorBoard shows {len(last)} charts, pictures and the table of hyperparameters as they were recorded")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python .ci/browser.py RUNS_DIR OUT_DIR")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (Missing, Error, AssertionError, OSError) as error:
        sys.exit(f"browser check failed: {error}")
