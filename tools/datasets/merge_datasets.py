"""Put the data sets of a folder, in the order of their names, one after another into one.

python tools/datasets/merge_datasets.py --input parts --output-prefix data/merged
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# NumPy starts threads for linear algebra, of which there is none here: without them the tool starts in half the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from megatron.data.merge import find_prefixes, merge
from megatron.data.progress import ByteProgress
from megatron.data.token_file import find_shards
from megatron.launcher.entry import run_main

_EPILOG = """\
Sequences and documents stay as they are; tokens must be of one type. A mixture by weights needs no merging: name the
sets in train_data_paths.
exit codes: 0 done, 2 usage, 3 a set is damaged or does not fit the others (then nothing is written)."""


def main() -> None:
    """Parse the flags, merge, say what was made."""
    flags = _parser().parse_args()
    prefixes = find_prefixes(Path(flags.input))
    files = [path for prefix in prefixes for path in (find_shards(prefix) or [Path(f"{prefix}.bin")])]
    progress = ByteProgress(sum(path.stat().st_size for path in files if path.is_file()), "merge")
    merged = merge(prefixes, Path(flags.output_prefix), progress.add)
    for prefix in prefixes:
        print(f"  {prefix}")
    print(
        f"wrote {merged.prefix}.bin and .idx: {len(prefixes)} data sets, {merged.num_documents:,} documents, "
        f"{merged.num_tokens:,} tokens of {merged.dtype.name}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, metavar="DIR", help="folder of .bin and .idx pairs, shards too")
    parser.add_argument("--output-prefix", required=True, help="path without .bin, outside of DIR")
    return parser


if __name__ == "__main__":
    run_main(main)
