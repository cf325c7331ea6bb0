"""A faster byte-level BPE (gigatoken) in place of `tokenizers`, used only where both are seen to give the same ids.

gigatoken reads the same tokenizer.json and is 10 to 25 times faster. It is young, so nothing is taken on trust: every
encoder proves itself on hard texts when it is made and on a share of what it encodes for as long as it works.
"""

from collections.abc import Callable, Sequence

import numpy as np

from megatron.tokenizer.hard_texts import HARD_TEXTS
from megatron.tokenizer.hugging_face import HuggingFaceTokenizer
from megatron.tokenizer.tokenizer import Tokenizer

# Share of the text that is encoded twice and compared, and bytes to compare before that share sets in.
CHECKED_SHARE, CHECKED_AT_FIRST = 1 / 500, 1 << 14


class EncodersDisagree(Exception):
    """The fast encoder gave other ids than `tokenizers`; the message shows where."""


class FastEncoder:
    """Texts to ids by the fast library, compared with `tokenizers` as it goes.

    Raises EncodersDisagree, from the constructor or from `encode`, whatever had been encoded before.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._encode: Callable[[str], np.ndarray] = _load(tokenizer)
        self._allowance = float(CHECKED_AT_FIRST)
        self._compare(HARD_TEXTS, [self._encode(text) for text in HARD_TEXTS])

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of uint32 ids for each text."""
        ids = [self._encode(text) for text in texts]
        chosen = []
        for number, text in enumerate(texts):
            self._allowance += len(text) * CHECKED_SHARE
            if len(text) <= self._allowance:  # whole texts only; long ones wait until the share allows them
                self._allowance -= len(text)
                chosen.append(number)
        self._compare([texts[number] for number in chosen], [ids[number] for number in chosen])
        return ids

    def _compare(self, texts: Sequence[str], found: Sequence[np.ndarray]) -> None:
        for text, ids, expected in zip(texts, found, self._tokenizer.tokenize_batch(texts), strict=True):
            if not np.array_equal(ids, np.array(expected, dtype=np.uint32)):
                raise EncodersDisagree(f"gigatoken and tokenizers give different ids for {text[:60]!r}")


def choose_encoder(tokenizer: Tokenizer) -> tuple[FastEncoder | None, str]:
    """The fast encoder for this tokenizer, or None, and one line that says which encoder is used and why."""
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return None, f"encoder: {tokenizer.name} (the fast byte-level BPE is for HFTokenizer and GPT2BPETokenizer)"
    slow = "encoder: tokenizers, encode_batch_fast"
    try:
        return FastEncoder(tokenizer), "encoder: gigatoken, same ids as tokenizers on the hard texts; samples compared"
    except ImportError:
        return None, f"{slow}; about ten times faster with: pip install gigatoken"
    except EncodersDisagree as error:
        return None, f"{slow}, because {error}"
    except (
        Exception
    ) as error:  # the library raises many kinds for vocabularies it cannot take; none is a reason to stop
        return None, f"{slow}, because gigatoken cannot read this vocabulary: {error}"


def _load(tokenizer: HuggingFaceTokenizer) -> Callable[[str], np.ndarray]:
    import gigatoken

    # From the text of the vocabulary, never from a name: a name would be looked for on the network.
    # Its one-text form neither starts threads nor builds Python lists.
    return gigatoken.Tokenizer.from_json(tokenizer.backend.to_str()).backend.encode
