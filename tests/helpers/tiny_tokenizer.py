"""A byte-level BPE tokenizer of a few hundred ids, trained on the spot, as tokenizer.json or as GPT-2 files."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again. What then?\n",
    "naïve café — 日本語 😀\r\n\tx = [1]",
]


def write_tokenizer_json(path: Path, special: str = "<|endoftext|>") -> Path:
    """Train it and write `path`; `special` is id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def write_gpt2_files(folder: Path) -> tuple[Path, Path]:
    """The same vocabulary as vocab.json and merges.txt."""
    tokenizer = Tokenizer.from_file(str(write_tokenizer_json(folder / "tokenizer.json")))
    vocabulary, merges = tokenizer.model.save(str(folder))
    return Path(vocabulary), Path(merges)
