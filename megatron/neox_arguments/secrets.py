"""Keys and passwords where they do not belong: found in settings, hidden in what is printed or kept.

A secret is the value of an environment variable that is named like one, or text in the form of a known kind of key.
"""

import os
import re
from collections.abc import Iterator, Mapping

_NAMED_LIKE_ONE = re.compile(
    r"(?:.*_)?(?:API_?KEY|KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PAT)", re.IGNORECASE
)
_FORMS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{30,})",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}|(?i:api_?key|wandb|comet|secret)\W{1,4}[0-9A-Za-z]{32,}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"(?<=://)[^/\s:@'\"]+:[^/\s@'\"]+(?=@)",
}
_FORM = re.compile("|".join(f"(?:{form})" for form in _FORMS.values()))
# Shorter values are words that stand everywhere; hiding one too many is harmless, refusing settings for it is not.
_SHORTEST_HIDDEN, _SHORTEST_REFUSED = 8, 12


def hide(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The same text without secrets: `<HF_TOKEN>` in place of that variable's value."""
    for name, value in _secrets(environment, _SHORTEST_HIDDEN):
        if value in text:
            text = text.replace(value, f"<{name}>")
    return _FORM.sub("<hidden>", text)


def secrets_in(text: str, environment: Mapping[str, str] = os.environ) -> Iterator[tuple[int, str]]:
    """(line, what it looks like) of each line that holds a secret; the secret itself is not told."""
    known = list(_secrets(environment, _SHORTEST_REFUSED))
    for number, line in enumerate(text.splitlines(), start=1):
        found = next((f"the value of {name}" for name, value in known if value in line), None)
        found = found or next((what for what, form in _FORMS.items() if re.search(form, line)), None)
        if found:
            yield number, found


def _secrets(environment: Mapping[str, str], shortest: int) -> list[tuple[str, str]]:
    """Longest first: one may be a part of another."""
    found = [(name, value) for name, value in environment.items() if _NAMED_LIKE_ONE.fullmatch(name)]
    return sorted(((n, v) for n, v in found if len(v) >= shortest), key=lambda one: -len(one[1]))
