"""Signs of damage in decoded text, found before a model learns them: escapes, wrong encodings, mark-up, repetition.

A sign in one document means little; its share over many does. Double escapes went unnoticed into the training data of
OPT (Zhang et al. 2022) and made its loss look too good.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\(?:[nrt\"/]|u[0-9a-fA-F]{4})")
_MOJIBAKE = re.compile("Ã[\x80-\xbf©¨ª«¤¶¼±]|â€[™œž\x9d“”¦]|Â[\xa0-\xbf]|ï»¿")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{2,5});")
_TAG = re.compile(r"</?(?:div|span|p|br|table|tr|td|li|ul|script|style)\b[^>]{0,200}>", re.IGNORECASE)


def _escaped(text: str) -> bool:
    # Code has a few escapes among many true line ends; text that went through JSON twice has it the other way round.
    return len(_ESCAPE.findall(text)) > max(1, text.count("\n"))


def _repeats_lines(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) >= 10 and len(set(lines)) * 2 < len(lines)


def _repeats_words(text: str) -> bool:
    words = text.split()
    return len(words) >= 50 and Counter(words).most_common(1)[0][1] * 3 > len(words)


SIGNS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "escapes": ("written-out escapes such as \\n or \\u00e9: JSON inside JSON?", _escaped),
    "replacement": ("U+FFFD, where bytes were lost: decoded with the wrong encoding?", lambda text: "�" in text),
    "mojibake": ("UTF-8 read as Latin-1 (Ã©, â€™): --ftfy repairs it", lambda text: bool(_MOJIBAKE.search(text))),
    "control": ("control characters: binary files among the text?", lambda text: bool(_CONTROL.search(text))),
    "entities": ("HTML entities such as &amp;", lambda text: len(_ENTITY.findall(text)) > 1),
    "tags": ("HTML tags", lambda text: len(_TAG.findall(text)) > 2),
    "crlf": ("Windows line ends", lambda text: "\r\n" in text),
    "same_lines": ("most lines occur more than once", _repeats_lines),
    "same_word": ("one word is more than a third of all", _repeats_words),
}


@dataclass
class Sign:
    """How many documents show it, and the first that does."""

    name: str
    meaning: str
    documents: int = 0
    first: int | None = None


def look_for_signs(texts: Iterable[tuple[int, str]]) -> tuple[int, list[Sign]]:
    """Look at (document number, text) pairs: how many there were, and every sign with its count (0 included)."""
    signs = {name: Sign(name, meaning) for name, (meaning, _) in SIGNS.items()}
    count = 0
    for number, text in texts:
        count += 1
        for name, (_, shows) in SIGNS.items():
            if shows(text):
                signs[name].documents += 1
                if signs[name].first is None:
                    signs[name].first = number
    return count, list(signs.values())
