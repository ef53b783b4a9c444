"""Short names of rows and folders: what tells one from the others, in few characters."""

import os
from collections.abc import Collection, Sequence

from runner.config.text import shortened

LONGEST = 40  # characters of a label on the terminal and in pictures


def short_labels(rows: Sequence[Sequence[str]], separator: str) -> list[str]:
    """Return a label of at most 40 characters for each row's words; where two would be equal, all words.

    The words go in first that tell a row from the most others; all stand in their own order.
    """
    labels = [_label(words, [{*other} for other in rows if other != words], separator) for words in rows]
    return [
        label if labels.count(label) == 1 else separator.join(words) for label, words in zip(labels, rows, strict=True)
    ]


def _label(words: Sequence[str], others: Sequence[Collection[str]], separator: str) -> str:
    kept, rest = list[str](), list(words)
    while rest:
        word = min(rest, key=lambda word: sum(word in other for other in others))
        rest.remove(word)
        if others or len(separator.join([*kept, word])) <= LONGEST:
            kept.append(word)
        others = [other for other in others if word in other]
    kept = [word for word in words if word in kept]
    letters = LONGEST
    while len(label := separator.join(shortened(word, letters) for word in kept)) > LONGEST and letters > 1:
        letters -= 1  # the longest words are cut first
    return shortened(label, LONGEST)


def short_folders(folders: Collection[str]) -> dict[str, str]:
    """Return for each folder the shortest end of its path that no other has, such as `b` for `runs/b`."""
    ends, count = dict.fromkeys(folders, ""), 0
    while len({*ends.values()}) < len(ends):
        count += 1
        ends = {folder: os.sep.join(os.path.abspath(folder).split(os.sep)[-count:]) for folder in folders}
    return ends
