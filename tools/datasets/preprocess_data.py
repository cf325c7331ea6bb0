"""Turn text into the token files that training reads, `<prefix>_<key>_document.bin` and `.idx`.

python tools/datasets/preprocess_data.py --input corpus.jsonl --output-prefix data/corpus \\
    --tokenizer-type HFTokenizer --vocab-file tokenizer.json --append-eod
"""

import argparse
import os
import signal
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.data.encode_documents import EncodeSettings
from megatron.data.input_files import ENDINGS, find_input_files
from megatron.data.preprocess import Progress, preprocess
from megatron.errors import SettingsError
from megatron.launcher.entry import run_main
from megatron.tokenizer.tokenizer import TOKENIZER_TYPES

_EPILOG = """\
The first run over a corpus is best made with --append-eod: without it no token marks the end of a document.
A run that was stopped or killed goes on where it was when the same command is given again.
exit codes: 0 done (documents left out are counted and listed in <prefix>_rejects.txt), 2 usage or settings,
3 nothing usable, or a file missing or damaged, 6 a worker process died."""


def main() -> None:
    """Parse the flags, tokenise, say what was made."""
    flags = _parser().parse_args()
    if flags.workers < 1:
        raise SettingsError(f"--workers: expected 1 or more, found {flags.workers}.")
    # Each worker is one thread; tokenizers would otherwise start as many as there are cores in each of them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = EncodeSettings(
        tokenizer_type=flags.tokenizer_type,
        vocab_file=flags.vocab_file,
        merge_file=flags.merge_file,
        keys=tuple(dict.fromkeys(key for item in flags.jsonl_keys for key in item.split(",") if key)),
        append_eod=flags.append_eod,
        ftfy=flags.ftfy,
        fast=not flags.no_fast_encoder,
    )
    # A stop on request leaves a note of how far it came; what kills at once leaves the last note, at most 10 s old.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    files = find_input_files(flags.input)
    if len(settings.keys) > 1 and (plain := [path for path in files if ".txt" in path.suffixes]):
        raise SettingsError(f"--jsonl-keys: {plain[0]} is plain text and has no keys; give it a run of its own.")
    result = preprocess(
        files,
        flags.output_prefix,
        settings,
        flags.workers,
        _Reporter(flags.log_interval, flags.num_docs),
        say=lambda line: print(line, flush=True),
        max_rejects=flags.max_rejects,
    )
    _say_what_was_made(result)


class _Reporter:
    """A line every `interval` documents, at most one a second."""

    def __init__(self, interval: int, expected_documents: int | None) -> None:
        self.interval, self.expected = max(1, interval), expected_documents
        self.next_documents, self.next_seconds = self.interval, 1.0

    def __call__(self, progress: Progress) -> None:
        if progress.documents < self.next_documents or progress.seconds < self.next_seconds:
            return
        self.next_documents = (progress.documents // self.interval + 1) * self.interval
        self.next_seconds = progress.seconds + 1.0
        fresh_bytes = progress.read_bytes - progress.resumed_bytes
        done, share = fresh_bytes, fresh_bytes / max(1, progress.total_bytes - progress.resumed_bytes)
        shown = progress.read_bytes / max(1, progress.total_bytes)
        if self.expected:
            shown = min(1.0, progress.documents / self.expected)
            share = shown if not progress.resumed_bytes else share
        left = progress.seconds * (1 - share) / share if done and share else 0.0
        rate = (progress.text_bytes - progress.resumed_text_bytes) / 1e6 / progress.seconds
        print(
            f"{shown:4.0%}  {progress.documents:,} documents  {rate:.1f} MB/s  "
            f"{progress.tokens / 1e6:.1f} M tokens  {progress.rejected} left out  ETA {_clock(left)}",
            flush=True,
        )


def _say_what_was_made(result: Progress) -> None:
    rate = (result.text_bytes - result.resumed_text_bytes) / 1e6 / max(result.seconds, 1e-9)
    print(
        f"{result.documents:,} documents, {result.text_bytes / 1e6:.1f} MB of text, {result.tokens:,} tokens "
        f"in {result.seconds:.1f} s ({rate:.1f} MB/s)"
    )
    for prefix in result.prefixes:
        print(f"wrote {prefix}.bin and .idx; train with data_path: {prefix}")
    if result.rejects_path:
        print(
            f"left out {result.rejected:,} documents, listed in {result.rejects_path}; the first: {result.first_reject}"
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = parser.add_argument_group("text")
    text.add_argument("--input", nargs="+", required=True, help=f"files or folders, also as comma lists: {ENDINGS}")
    text.add_argument("--jsonl-keys", nargs="+", default=["text"], help="keys to tokenise, one data set each (text)")
    text.add_argument("--num-docs", type=int, help="number of documents, for a better ETA")
    text.add_argument("--ftfy", action="store_true", help="repair garbled characters with ftfy first")
    tokens = parser.add_argument_group("tokenizer")
    tokens.add_argument("--tokenizer-type", required=True, choices=list(TOKENIZER_TYPES))
    tokens.add_argument("--vocab-file", help="tokenizer.json, vocab.json, or model file")
    tokens.add_argument("--merge-file", help="merges.txt (GPT2BPETokenizer)")
    tokens.add_argument("--no-fast-encoder", action="store_true", help="`tokenizers` even where gigatoken fits")
    tokens.add_argument("--append-eod", action="store_true", help="end each document with <|endoftext|>")
    output = parser.add_argument_group("output")
    output.add_argument("--output-prefix", required=True, help="path without the ending _<key>_document.bin")
    output.add_argument("--dataset-impl", choices=["mmap"], default="mmap", help="the only format written")
    output.add_argument(
        "--workers", type=int, default=cores, help=f"processes (all cores: {cores}); same result for any number"
    )
    output.add_argument("--max-rejects", type=int, help="stop with exit code 3 when more documents cannot be used")
    output.add_argument("--log-interval", type=int, default=100, help="documents between progress lines (100)")
    return parser


if __name__ == "__main__":
    run_main(main)
