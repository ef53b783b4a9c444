"""Words for a person: names that a mistyped one may mean, and long names and lines made to fit."""

import textwrap
from collections.abc import Sequence
from difflib import get_close_matches

LINE = 120  # characters of a line on the terminal


def near(word: str, names: Sequence[str], most: int = 8) -> str:
    """Return the names that a mistyped one may mean, the likeliest first, and how many others there are."""
    inside = [name for name in names if word.lower() in name.lower()]
    alike = get_close_matches(word, names, most, cutoff=0.5)
    shown = list(dict.fromkeys([*inside, *alike] or names))[:most]
    others = len(names) - len(shown)
    return ", ".join(shown) + (f" ({others} other{'s' * (others > 1)})" if others else "")


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters, its middle left out: names that are alike differ at an end."""
    end = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def wrapped(line: str) -> str:
    """Return a line broken at spaces, so that it can be read on any terminal; a path stays whole."""
    return textwrap.fill(line, LINE, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
