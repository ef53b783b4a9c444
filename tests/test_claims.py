"""The pages claim no more than the recorded numbers: intervals, ends of ranges, what was too small to be seen."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator

import pandas as pd
import pytest
from scipy import stats
from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from studies import tables
from studies.comparison import at_end, differences, table_of_errors
from studies.lecture_weights import l1_text

DOCS = ROOT / "docs"
NUMBER = r"[-+]?\d*\.\d+"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
Triple = tuple[float, float, float]


def words_of(page: str) -> str:
    return " ".join((ROOT / page).read_text().split())


def recorded(name: str) -> pd.DataFrame:
    return pd.read_csv(DOCS / "results" / f"{name}.csv")


def intervals_of(text: str) -> Iterator[tuple[Triple, int]]:
    """Yield mean and ends of each interval, turned so that the mean is positive, and the digits of the mean."""
    for cells in INTERVAL.findall(text):
        mean, low, high = map(float, cells)
        turned = (mean, low, high) if mean >= 0 else (-mean, -high, -low)
        yield turned, len(cells[0].partition(".")[2])


def is_known(interval: Triple, digits: int, known: list[Triple]) -> bool:
    tolerance = 0.5001 * 10**-digits
    return any(all(abs(a - b) <= tolerance for a, b in zip(interval, other, strict=True)) for other in known)


@pytest.mark.parametrize("page", ["README.md", "docs/penalties.md", "docs/comparisons.md", "docs/effects.md"])
def test_every_interval_of_a_page_is_one_of_the_recorded_results(page: str) -> None:
    """docs/results.md is written from the csv files; those of the table of effects.md have a test of their own."""
    own = (ROOT / "docs" / "effects.md").read_text() if page == "docs/effects.md" else ""
    table = "\n".join(line for line in own.splitlines() if line.startswith("|"))
    known = [interval for interval, _ in intervals_of(words_of("docs/results.md") + table)]
    claimed = list(intervals_of(words_of(page)))
    assert claimed or page == "docs/comparisons.md"
    assert not [interval for interval, digits in claimed if not is_known(interval, digits, known)]


def test_an_interval_that_nobody_measured_is_found() -> None:
    known = [interval for interval, _ in intervals_of("-0.0147 [-0.0199, -0.0096]")]
    assert is_known(*next(intervals_of("by .0147 [.0096, .0199]")), known)
    assert not is_known(*next(intervals_of("by .0147 [.0096, .0189]")), known)


def test_the_intervals_of_effects_follow_from_their_means_and_deviations() -> None:
    rows = re.findall(
        rf"^\| ?(.*) \| ({NUMBER}) \(({NUMBER})\) \| ({NUMBER}) \(({NUMBER})\).* \| {INTERVAL.pattern} \|$",
        (DOCS / "effects.md").read_text(),
        re.M,
    )
    assert len(rows) == 15
    n = 5
    for name, *cells in rows:
        n = 3 if "3 seeds" in name or (n == 3 and name.startswith("|")) else 5
        mean, sd, with_mean, with_sd, *said = map(float, cells)
        reach = stats.t.ppf(0.975, 2 * n - 2) * math.sqrt((sd**2 + with_sd**2) / n)
        expected = (with_mean - mean, with_mean - mean - reach, with_mean - mean + reach)
        tolerance = 0.51 * 10 ** -len(cells[-1].partition(".")[2])
        assert said == pytest.approx(expected, abs=tolerance), name


@pytest.mark.parametrize(
    "claim", list(tables.claims_of().itertuples()), ids=lambda claim: f"{claim.section} {claim.new}"
)
def test_a_claim_of_the_review_stands_in_its_section(claim: pd.Series) -> None:
    page = words_of("docs/comparisons.md" if claim.section == "own" else "docs/results.md")
    section = page.partition(f"<!-- begin {claim.section} -->")[2].partition("<!-- end")[0] or page
    assert claim.new.lstrip("-0") in section
    assert all(f"{abs(float(end)):g}".lstrip("0") in section for end in (claim.low, claim.high) if end)
    for number in re.findall(r"(?<![\w.])\.\d{3,}", claim.source):
        assert number in section


def test_arms_at_an_end_of_their_range_are_marked() -> None:
    marked = {
        name: {line.split()[1] for line in table_of_errors(recorded(name)) if "end of its range" in line}
        for name in ("compare_digits", "compare_mnist")
    }
    ends = {"jacobian", "large_margin", "l2", "weight_decay", "tangent_prop", "noisy_inputs"}
    assert marked == {"compare_digits": {"l2"}, "compare_mnist": ends}
    assert at_end("dropout", "dropout=0.8")
    assert not at_end("dropout", "dropout=0.2")


def test_the_least_difference_that_five_seeds_can_show_against_18_rows() -> None:
    """Trained anew from the definition: Student's p of that difference, times the rows, is 5 %."""
    alone = stats.t.ppf(0.975, 4) / math.sqrt(5)  # half the interval of a deviation of 1
    rows = pd.DataFrame({"low": [-alone] * 17 + [-2 * alone], "high": [alone] * 17 + [2 * alone]})
    typical, largest = tables.missed(rows, 5)
    assert 18 * 2 * stats.t.sf(typical * math.sqrt(5), 4) == pytest.approx(0.05)
    assert largest == pytest.approx(2 * typical)
    assert f"{typical:.1f} standard deviations" in words_of("README.md")
    assert f"{typical:.1f} standard deviations" in words_of("docs/comparisons.md")


def test_the_readme_says_what_its_table_could_not_see() -> None:
    readme, runs = words_of("README.md"), recorded("compare_digits")
    least = [
        tables.missed(differences(runs, f"{metric}"), 5)[0]
        for metric in ("test/error", "probe/noise/0.3", "probe/pgd/0.1")
    ]
    error, noise, attack = (f"{value:.3f}".lstrip("0") for value in least)
    assert f"of the test error mostly {error}, under noise {noise}, under PGD {attack}" in readme
    of_the_test_set = f"{math.sqrt(0.04 * 0.96 / 360):.3f}".lstrip("0")
    assert f"360 digits leave each error uncertain by {of_the_test_set}" in readme


def test_one_failed_run_does_not_rule_a_row_of_l1() -> None:
    row = next(line for line in l1_text(recorded("lecture_l1")) if line.startswith("| 5e-05 | 0.0665"))
    assert row == "| 5e-05 | 0.0665 | 0 of 10 | 0.116 | 0.0655 | 1 of 10 | 0.000 |"  # its mean is .1113


def test_mistakes_says_which_activations_make_plateaus() -> None:
    page, runs = words_of("docs/mistakes.md"), recorded("tangents_line")
    for activation in ("tanh", "gelu", "elu"):
        own = runs[(runs["penalty"] == "tangent_prop") & (runs["model.activation"] == activation)]
        points = own["probe/slope/at_points"]
        assert f"{points.mean():.3f} ({points.std():.3f})".replace("0.", ".") in page
        assert f"{own['probe/slope/between'].mean():.2f}" in page
