"""Token files with label files: loss counts only after a marker, for instance after "Answer:" of questions and answers.

python tools/datasets/preprocess_data_with_mask.py --input qa.jsonl --output-prefix data/qa --append-eod \\
    --tokenizer-type HFTokenizer --vocab-file tokenizer.json --mask-before-token 187,187,32869,27
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.data.input_files import ENDINGS, find_input_files
from megatron.data.label_encoders import MaskEncoder
from megatron.data.label_report import repairer, report_lines
from megatron.data.label_sets import write_label_sets
from megatron.data.progress import ByteProgress
from megatron.data.text_files import TextFiles
from megatron.data.tokenizer_record import write_record
from megatron.errors import SettingsError
from megatron.launcher.entry import run_main
from megatron.tokenizer.tokenizer import TOKENIZER_TYPES, Tokenizer, build_tokenizer

_EPILOG = """\
Writes <prefix>_<key>_document and <prefix>_label_document; train with train_data_paths and train_label_data_paths.
Labels are -100, which counts for nothing, up to and including the first marker; a document without one counts
whole.
exit codes: 0 done (documents left out are listed in <prefix>_rejects.txt), 2 usage or settings, 3 nothing usable."""


def main() -> None:
    """Parse the flags, tokenise, say what was made."""
    flags = _parser().parse_args()
    if flags.workers < 1:
        raise SettingsError(f"--workers: expected 1 or more, found {flags.workers}.")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker is one thread
    tokenizer = build_tokenizer(flags.tokenizer_type, flags.vocab_file, flags.merge_file)
    pattern = _pattern(flags, tokenizer)
    encode = MaskEncoder(tokenizer, flags.jsonl_keys, pattern, flags.append_eod, repairer(flags.ftfy))
    files = find_input_files(flags.input)
    text, labels = (Path(f"{flags.output_prefix}_{name}_document") for name in (flags.jsonl_keys, "label"))
    if text == labels:
        raise SettingsError("--jsonl-keys: `label` is the name of the label file; rename the key in the input.")
    progress = ByteProgress(TextFiles(files, [flags.jsonl_keys]).total_bytes, "tokenise")
    rejects = Path(f"{flags.output_prefix}_rejects.txt")
    made = write_label_sets(
        files, [flags.jsonl_keys], {text: "int32", labels: "int32"}, encode, rejects,
        workers=flags.workers, progress=progress.add,
    )  # fmt: skip
    write_record(text, tokenizer, append_eod=flags.append_eod)
    for line in report_lines(made, rejects, has_labels=True):
        print(line)


def _pattern(flags: argparse.Namespace, tokenizer: Tokenizer) -> tuple[int, ...]:
    if flags.mask_before_text:
        return tuple(tokenizer.tokenize(flags.mask_before_text))
    try:
        pattern = tuple(int(part) for part in flags.mask_before_token.strip("[]").split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"--mask-before-token: expected ids such as 187,27, found {error}.") from error
    if not pattern or min(pattern) < 0 or max(pattern) >= tokenizer.vocab_size:
        raise SettingsError(
            f"--mask-before-token: expected ids from 0 to {tokenizer.vocab_size - 1}, "
            f"found {flags.mask_before_token!r}."
        )
    return pattern


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = parser.add_argument_group("text")
    text.add_argument("--input", nargs="+", required=True, help=f"files or folders, also as comma lists: {ENDINGS}")
    text.add_argument("--jsonl-keys", default="text", metavar="KEY", help="the key of the text (text)")
    marker = text.add_mutually_exclusive_group(required=True)
    marker.add_argument(
        "--mask-before-token", metavar="IDS", help="token ids of the marker, by commas: 187,187,32869,27"
    )
    marker.add_argument("--mask-before-text", metavar="TEXT", help="the marker as text; only exact ids are found")
    text.add_argument("--num-docs", type=int, help="not needed: progress goes by bytes")
    text.add_argument("--ftfy", action="store_true", help="repair garbled characters with ftfy first")
    tokens = parser.add_argument_group("tokenizer")
    tokens.add_argument("--tokenizer-type", required=True, choices=list(TOKENIZER_TYPES))
    tokens.add_argument("--vocab-file", "--vocab", help="tokenizer.json, vocab.json, or model file")
    tokens.add_argument("--merge-file", help="merges.txt (GPT2BPETokenizer)")
    tokens.add_argument("--append-eod", action="store_true", help="end each document with <|endoftext|>")
    output = parser.add_argument_group("output")
    output.add_argument("--output-prefix", required=True, help="path without the ending _<key>_document.bin")
    output.add_argument("--dataset-impl", choices=["mmap"], default="mmap", help="the only format written")
    output.add_argument("--workers", type=int, default=1, help="processes (1); same result for any number")
    output.add_argument("--log-interval", type=int, help="not needed: a line comes every two seconds")
    return parser


if __name__ == "__main__":
    run_main(main)
