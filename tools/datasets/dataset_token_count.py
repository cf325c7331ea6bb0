"""Count the documents and tokens of data sets; only their .idx is read.

python tools/datasets/dataset_token_count.py data/books_text_document data/code_text_document
"""

import argparse
import json
import os
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# NumPy starts threads for linear algebra, of which there is none here: without them the tool starts in half the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from megatron.data.indexed_dataset import IndexedDataset
from megatron.launcher.entry import run_main

_EPILOG = "exit codes: 0 done, 2 usage, 3 a data set is missing or damaged"


def main() -> None:
    """Parse the flags, print a line for each data set and the sum."""
    flags = _parser().parse_args()
    total_documents = total_tokens = 0
    for prefix in flags.prefix:
        dataset = IndexedDataset(prefix)
        documents, tokens = dataset.num_documents, dataset.num_tokens
        total_documents, total_tokens = total_documents + documents, total_tokens + tokens
        if flags.json:
            fields = {"prefix": prefix, "documents": documents, "sequences": dataset.num_sequences, "tokens": tokens}
            print(json.dumps({**fields, "dtype": dataset.dtype.name, "bytes": dataset.token_file.num_bytes}))
        else:
            print(f"{prefix}: {documents:,} documents, {tokens:,} tokens of {dataset.dtype.name}")
    if len(flags.prefix) > 1 and not flags.json:
        print(f"together: {total_documents:,} documents, {total_tokens:,} tokens")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix", nargs="+", help="path of a data set without .bin or .idx")
    parser.add_argument("--json", action="store_true", help="a JSON object per line instead")
    return parser


if __name__ == "__main__":
    run_main(main)
