"""The words of a command line, before Hydra reads them.

Text that only Hydra's grammar forbids, such as `data.root=~/data` or a run's directory with its `=`, is put in quotes.
Every other word that is no `key=value`, or has a value that the grammar cannot read, gets a sentence with the cause and
with what to type.
"""

import os
import re
import shlex
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from runner.config.conf_files import GROUPS, main_config, options

PATHS = ("runs_dir", "init_from", "data.root", "data.path")
FLAGS = ("--help", "--multirun", "--cfg", "--resolve", "--config-dir", "--version", "-m", "-h")
KEY = re.compile(r"[+~]{0,2}[a-zA-Z_][\w./@-]*", re.ASCII)
TEXT = re.compile(r"(?!=)[\w\u0300-\u036f./~:@%+=*?$\\ -]+")  # a value in which no sign has a meaning of its own
DASHES, QUOTES = "\u2010\u2013\u2014\u2212", "\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019\u201a"
SIGNS = str.maketrans(DASHES + QUOTES, "-" * len(DASHES) + '"' * len(QUOTES))  # those of a keyboard
CLOSING = {"(": ")", "[": "]", "{": "}"}
CALLS = {"interval": "interval(0.01,1)", "tag": "tag(log,interval(0.01,1))", "glob": "glob(*)"}  # else range(5)
REPAIRS = (  # of a word that cannot be read: its fault, where that is, and what is put there; tried one after the other
    ("has a # that begins no comment here", r"\s+#.*$|#+$", ""),
    ("has a backslash before =", r"^([\w.]+)\\+=", r"\1="),
    ("has spaces around =", r"^([^\s=]+)\s*=\s+|^([^\s=]+)\s+=", r"\1\2="),
    ("has a bracket without its partner", "", ""),
    ("has a quote without its partner", r"=\s*[\"']([^\"']*)$|=([^\"']*)[\"']$", r"=\1\2"),
    ("has two signs between key and value", r"^([^=:]+)[:=]*=[:=]*", r"\1="),
    ("ends in a sign too many", r"[;,.:]+\s*$", ""),
    ("has a comma with nothing beside it", r"(?<=[\[({,])\s*,|,\s*(?=[\])}])", ""),
    ("has quotes around a key", r"([{,]\s*)[\"']([\w.]+)[\"']\s*:", r"\1\2:"),
    ("has = within braces, where : belongs", r"([{,]\s*[\w.]+)\s*=(?=.*\})", r"\1: "),
    ("has parentheses around a list", r"(=|:\s*|,\s*)\(([^()]*)\)", r"\1[\2]"),
)


@cache
def parsed(line: str) -> Override:
    """Return one override, parsed; it is shared.

    Raises:
        HydraException: if the grammar cannot read it.
    """
    return OverridesParser.create().parse_override(line)


def _is_readable(line: str) -> bool:
    try:
        return bool(parsed(line))
    except HydraException:
        return False


def as_read(word: str) -> str:
    """Return a word as Hydra is to read it: in quotes where its value is text that only the grammar forbids."""
    key, _, value = word.partition("=")
    if not KEY.fullmatch(key) or not value or _is_readable(word) or len(_options_in(word)) > 1:
        return word
    texts = [value] if os.path.exists(os.path.expanduser(value)) else value.split(",")
    if not all(map(TEXT.fullmatch, value.split(","))):
        return word
    return f"{key}=" + ",".join(text if _is_readable(f"key={text}") else f'"{text}"' for text in texts)


def _options_in(word: str) -> list[str]:
    keys = "|".join([*(main_config().keys() - {"defaults"}), *GROUPS])
    between = r"[\s;]+" if word.partition("=")[0] in PATHS else r"[\s,;]+"  # a run's directory has commas
    starts = re.finditer(rf"{between}(?=[+~]*(?:{keys})\b[\w./]*\s*=)", word)
    ends = [found.span() for found in starts if not _is_open(word[: found.start()])]
    return [word[start:end] for (_, start), (end, _) in zip([(0, 0), *ends], [*ends, (len(word), 0)], strict=True)]


def _is_open(text: str) -> bool:
    return sum(map(text.count, CLOSING)) > sum(map(text.count, CLOSING.values()))


def read(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the overrides among some words as Hydra is to read them, and a sentence for each of the other words.

    Args:
        words: of the command line, without the flags and what belongs to these.
    """
    files = [word for word in words if re.fullmatch(r"[^=\s]+", word) and Path(word).exists()]
    lines, problems = list[str](), dict[str, str]()
    if any(not _is_key(word) for word in files):
        shown = " ".join([*files[:3], *(["..."] if len(files) > 3 else [])])
        problems[""] = f"{shown}: names of files, which the shell puts for a *: put it in quotes, 'penalty=glob(*)'"
    for group in _groups([word for word in words if not problems or word not in files]):
        line = as_read(group[0])
        if group[0].startswith("#"):
            problems["#"] = f"{group[0]} begins no comment here: leave it out, with all that follows"
            break
        if len(group) == 1 and _is_readable(line) and re.match(r"[+~]*\w", line):
            lines.append(line)
        else:
            problems[group[0]] = _sentence(group)
    return lines, problems


def _is_key(word: str) -> bool:
    return word.partition(".")[0] in (*main_config(), *GROUPS)


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    rest = deque(words)
    while rest:
        group = [rest.popleft()]
        if "=" in group[0] and _is_open(group[0]):
            ends = (end for end in range(1, len(rest) + 1) if not _is_open(" ".join([*group, *list(rest)[:end]])))
            group += [rest.popleft() for _ in range(next(ends, 0))]
        while rest and _goes_on(" ".join(group), rest[0]):
            group.append(rest.popleft())
        yield group


def _goes_on(typed: str, following: str) -> bool:
    if not re.fullmatch(r"-{0,2}[a-zA-Z][\w./-]* ?[:=]?", typed) or _is_key(following):
        return False
    return following in ("=", ":") or bool(re.fullmatch(r"(?!--?[a-z])=?[^=#]+", following))


def _sentence(words: Sequence[str]) -> str:
    typed = " ".join(words)
    if not typed.strip():
        return "an empty word stands among the options: leave it out (is a variable of the shell empty?)"
    if len(several := _options_in(typed)) > 1 and len(words) == 1:
        return f"{typed} is one word with {len(several)} options: write {shlex.join(several)}"
    if _is_open(words[0]) and len(words) > 1:
        return f"{typed} has been cut at its spaces by the shell: write it in quotes, {shlex.quote(typed)}"
    if odd := next((sign for sign in typed if _is_odd(sign)), None):
        return _sentence_of_odd(typed, odd)
    bare = re.fullmatch(r"(-{0,2})([a-zA-Z][\w./-]*)\s*([:=]?)\s*(.*)", typed, re.S)
    if bare and (bare[1] or len(words) > 1 or "=" not in typed):
        return f"{words[0]} is not {'a flag' if bare[1] else 'key=value'}: {_meant_by(*bare.groups())}"
    if not re.search(r"\w.*=", typed):
        return f"{typed} is not key=value: an option is written as epochs=5"
    return _sentence_of_grammar(typed)


def _is_odd(sign: str) -> bool:  # no letter, and on no keyboard
    return unicodedata.category(sign) == "Cc" or not (sign.isascii() or unicodedata.category(sign)[0] in "LM")


def _meant_by(dashes: str, key: str, sign: str, value: str) -> str:
    if not sign and not value and not _is_key(key):
        if flags := get_close_matches((dashes or "--") + key, FLAGS, 1, cutoff=0.75 - 0.1 * len(dashes)):
            return f"write {flags[0]}"
        if groups := [group for group in (*GROUPS, "experiment", "sweep") if key in options(group)]:
            return f"write {groups[0]}={key}"
        if dashes:
            return "uv run train.py --help lists them"
    return f"write {shlex.join([f'{key}={value}']) if value else f'{key}=...'}"


def _sentence_of_odd(typed: str, odd: str) -> str:
    meant = re.sub(r"^--?(?=\w{2})", "--", unicodedata.normalize("NFKC", typed).translate(SIGNS))
    meant = "".join(sign for sign in meant if unicodedata.category(sign)[0] != "C")
    name = unicodedata.name(odd, "a sign that cannot be seen").lower()
    fix = meant if meant.isascii() and (meant in FLAGS or _is_readable(meant)) else _quoted(typed)
    return f"{typed} holds {odd!r} ({name}), which means nothing here: write {shlex.quote(fix)}"


def _sentence_of_grammar(typed: str) -> str:
    """Return why the grammar cannot read a word, and what to type: the first repairs with which it can."""
    key = typed.partition("=")[0]
    try:
        parsed(typed)
    except HydraException as error:
        if call := re.match(r"\w+ while evaluating '(\w+)", str(error)):
            kind = "tag" if "log" in call[1] else "interval" if "unif" in call[1] else call[1]
            fault = "which is no function here" if "Unknown function" in str(error) else "which takes other values"
            usual = f"{key}={CALLS.get(kind, 'range(5)')}"
            return f"{typed} calls {call[1]}, {fault}: write {shlex.quote(usual)}"
        rest = typed[getattr(error.__cause__, "startIndex", len(key) + 1) :]
    faults, meant = list[str](), typed
    for fault, pattern, replacement in REPAIRS:
        repaired = re.sub(pattern, replacement, meant) if pattern else _closed(meant)
        if repaired != meant:
            faults, meant = [*faults, fault], repaired
        if _is_readable(meant):
            break
    else:
        faults, meant = [f"cannot be read from {rest!r} on"], _quoted(typed)
    if not _is_readable(meant):
        return f"{typed} has no key that could be one: letters, digits, _ and . may stand before ="
    return f"{typed} {' and '.join(faults)}: write {shlex.quote(meant)}"


def _closed(word: str) -> str:
    open_ones, kept = list[str](), ""
    for sign in word:
        if sign in CLOSING:
            open_ones.append(CLOSING[sign])
        elif sign in CLOSING.values() and sign != (open_ones.pop() if open_ones[-1:] == [sign] else None):
            continue
        kept += sign
    return kept + "".join(reversed(open_ones))


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    text = value.strip().strip("\"'").replace("\\", "\\\\").replace('"', '\\"')
    return f'{key.strip()}="{text}"'
