"""Batches as people read them: every sample of a step decoded, as text or as one HTML page."""

import html
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from megatron.tokenizer.tokenizer import Tokenizer

_STYLE = """\
body { font-family: sans-serif; margin: 2em auto; max-width: 60em; line-height: 1.5; }
pre { white-space: pre-wrap; background: #f6f6f4; padding: 0.8em; border-radius: 4px; }
.off { color: #999; } .eod { background: #ffd9a0; border-radius: 3px; padding: 0 3px; }
h2 { border-top: 2px solid #ccc; padding-top: 0.6em; } .where { color: #777; font-size: 85%; }"""


@dataclass(frozen=True)
class Sample:
    """One row of a batch. text: int64 [seq + 1]; labels: the same length, negative where nothing counts."""

    step: int
    row: int
    where: str
    text: np.ndarray
    labels: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """bool [seq + 1]: the token is predicted and counts; the first is never predicted."""
        counts = self.labels >= 0
        counts[:1] = False
        return counts


def as_text(samples: Iterable[Sample], tokenizer: Tokenizer | None, tokens: int | None) -> Iterable[str]:
    """A heading and the text of each sample; its first `tokens` tokens (None: all), ids where there is no tokenizer."""
    for sample in samples:
        counted = int(sample.counts.sum())
        yield f"=== step {sample.step}, row {sample.row}: {sample.where}, {counted} of {len(sample.text) - 1} count"
        ids = sample.text[:tokens].tolist()
        yield _decoded(ids, tokenizer)


def as_html(samples: Sequence[Sample], tokenizer: Tokenizer | None, tokens: int | None, title: str) -> str:
    """One page that needs no other file. Tokens that do not count are grey, the end of a document is marked."""
    parts = [f"<!DOCTYPE html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>{html.escape(title)}</h1>")
    step = None
    for sample in samples:
        if sample.step != step:
            step = sample.step
            parts.append(f"<h2>step {step}</h2>")
        counted = int(sample.counts.sum())
        parts.append(
            f"<p class='where'>row {sample.row}: {html.escape(sample.where)}, "
            f"{counted} of {len(sample.text) - 1} count</p><pre>"
        )
        # The first token is shown as the others are: it is context, not left out.
        counts = sample.counts[:tokens]
        counts[:1] = len(counts) < 2 or counts[1]
        ids = sample.text[:tokens]
        edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(ids)]
        for start, end in itertools.pairwise(edges):
            body = _marked(ids[start:end].tolist(), tokenizer)
            parts.append(body if counts[start] else f"<span class='off'>{body}</span>")
        parts.append("</pre>")
    return "\n".join(parts[:2]) + "\n" + "".join(parts[2:]) + "\n"


def _decoded(ids: list[int], tokenizer: Tokenizer | None) -> str:
    return " ".join(map(str, ids)) if tokenizer is None else tokenizer.detokenize(ids, keep_special=True)


def _marked(ids: list[int], tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return html.escape(" ".join(map(str, ids))) + " "
    pieces, start = [], 0
    for place, token in enumerate([*ids, tokenizer.eod]):
        if token == tokenizer.eod:
            pieces.append(html.escape(tokenizer.detokenize(ids[start:place], keep_special=True)))
            start = place + 1
    return "<span class='eod'>end of document</span>\n".join(pieces)
