"""Separator and padding ids of three tokenizers, as the paper's inference code lists them (section 9 of its settings).

Ids belong to a tokenizer, not to an architecture: a preset fits the checkpoints named with it and no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sepllm.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """separators: . , ? ! ; : newline, blanks, tab, and those after a blank. vocabularies: sizes that it fits."""

    separators: tuple[int, ...]
    padding: int
    vocabularies: Sequence[int]
    fits: str


_LLAMA_3 = (13, 11, 30, 0, 26, 25, 198, 220, 662, 1174, 949, 758, 2652, 551, 720, 256, 262, 128000)
_PYTHIA = (15, 13, 32, 2, 28, 27, 209, 186, 187, 964, 1157, 3736, 2195, 3706, 1163, 2490, 50276, 586, 4928, 50275)
_FALCON = (25, 23, 42, 12, 38, 37, 193, 4610, 204, 258, 1212, 23787, 466)

PRESETS = {
    "llama": Preset(_LLAMA_3, 128009, (128256,), "Llama 3 and 3.1"),
    "gpt_neox": Preset(_PYTHIA, 0, (50254, 50277, 50304, 50432, 50688), "Pythia and GPT-NeoX-20B"),
    "falcon": Preset(_FALCON, 11, (65024,), "Falcon"),
}
_OTHER_NAMES = {"pythia": "gpt_neox"}


def preset_for(model_type: str, vocab_size: int | None = None) -> Preset:
    """The preset whose name occurs in `model_type`. vocab_size: of the model, checked where it is known.

    Raises ConfigError where there is none, or where the model's vocabulary is not the preset's.
    """
    low = model_type.lower().replace("-", "_")
    name = next((known for known in (*PRESETS, *_OTHER_NAMES) if known in low), None)
    if name is None:
        raise ConfigError(
            f"No separators are known for model_type {model_type!r}; known are {', '.join((*PRESETS, *_OTHER_NAMES))}. "
            "Give separator_token_ids and PADDING_ID, or a config from SepConfig.from_tokenizer(tokenizer, '.,?!;:')."
        )
    preset = PRESETS[_OTHER_NAMES.get(name, name)]
    if vocab_size is not None and vocab_size not in preset.vocabularies:
        raise ConfigError(
            f"The separators known for {model_type!r} are token ids of {preset.fits}; this model has {vocab_size} "
            "tokens, so its tokenizer is another one. Give separator_token_ids, or a config made from it."
        )
    return preset
