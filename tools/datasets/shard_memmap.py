"""Cut the .bin of a data set into shards of equal size, named as those of the Pile.

python tools/datasets/shard_memmap.py --input_file data/corpus_text_document.bin --output_dir shards
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# NumPy starts threads for linear algebra, of which there is none here: without them the tool starts in half the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from megatron.data.checksums import write_hash_list
from megatron.data.progress import ByteProgress
from megatron.data.shards import PILE_SHARD_BYTES, split_file
from megatron.errors import SettingsError
from megatron.launcher.entry import run_main

_EPILOG = """\
Training reads the shards in place; tools/datasets/unshard_memmap.py joins them again. The .idx stays whole and is
copied along. exit codes: 0 done, 2 usage, 3 the file is missing, or the folder holds another cut or has no room."""


def main() -> None:
    """Parse the flags, cut, write the list of hashes, say what was made."""
    flags = _parser().parse_args()
    if flags.shard_size < 1:
        raise SettingsError(f"--shard_size: expected 1 byte or more, found {flags.shard_size}.")
    source, folder = Path(flags.input_file), Path(flags.output_dir)
    size = source.stat().st_size if source.is_file() else 0
    progress = ByteProgress(size, "shard")
    shards = split_file(source, folder, flags.shard_size, progress.add)
    print(f"wrote {shards[0]} to {shards[-1].name}: {size} bytes in {len(shards)} shards")
    hashing = ByteProgress(size, "sha256")
    index = folder / source.with_suffix(".idx").name
    write_hash_list(folder / "shard_hashes.txt", [*shards, *([index] if index.is_file() else [])], 4, hashing.add)
    print(f"wrote {folder / 'shard_hashes.txt'}; check copies with tools/datasets/checksum_shards.py")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input_file", required=True, metavar="BIN", help="the .bin of a data set")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for the shards, made if missing")
    parser.add_argument(
        "--shard_size", type=int, default=PILE_SHARD_BYTES, help=f"bytes of a shard ({PILE_SHARD_BYTES}, the Pile's)"
    )
    return parser


if __name__ == "__main__":
    run_main(main)
