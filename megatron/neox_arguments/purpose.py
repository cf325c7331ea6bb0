"""What a particular script needs beyond a valid configuration, found before any process starts."""

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs


def check_for_training(args: NeoXArgs) -> None:
    """train.py: a length, data and a tokenizer. Raises SettingsError naming all that is missing."""
    missing = []
    if args.train_iters is None and args.train_tokens is None and args.train_epochs is None:
        missing.append("train_iters: 1000 (optimizer steps of the whole run), or train_tokens, or train_epochs")
    if not args.data_path and not args.train_data_paths:
        missing.append(
            "data_path: my_corpus_text_document (prefix of a .bin/.idx pair), or the three *_data_paths lists"
        )
    if args.vocab_file is None and args.tokenizer_type != "CharLevelTokenizer":
        missing.append(f"vocab_file: tokenizer.json (for tokenizer_type {args.tokenizer_type})")
    if missing:
        raise SettingsError("training needs more settings. Add:\n" + "\n".join(f"  {line}" for line in missing))
