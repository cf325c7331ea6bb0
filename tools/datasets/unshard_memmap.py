"""Join the shards of a data set into one .bin, as the Pile needs it (or leave them: training reads shards in place).

python tools/datasets/unshard_memmap.py --input_file pile/x-00000-of-00082.bin --num_shards 83 --output_dir joined
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# NumPy starts threads for linear algebra, of which there is none here: without them the tool starts in half the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from megatron.data.checksums import read_hash_list
from megatron.data.progress import ByteProgress
from megatron.data.shards import join_shards
from megatron.data.token_file import find_shards, prefix_of_shard
from megatron.errors import SettingsError
from megatron.launcher.entry import run_main

_EPILOG = """\
The number after `of` in the names is that of the last shard: -of-00082 are 83 files. Gaps, cut shards and a total that
does not fit the .idx are found before anything is copied; the .idx is copied along.
exit codes: 0 done, 2 usage, 3 a shard missing, damaged or not as in the list of hashes (then nothing is written)."""


def main() -> None:
    """Parse the flags, join, say what was made."""
    flags = _parser().parse_args()
    prefix = prefix_of_shard(Path(flags.input_file))
    if prefix is None:
        raise SettingsError(
            f"--input_file: expected the first shard, such as x-00000-of-00082.bin: {flags.input_file}."
        )
    shards = find_shards(prefix)
    if flags.num_shards is not None and shards and flags.num_shards != len(shards):
        raise SettingsError(f"--num_shards: {flags.num_shards}, but there are {len(shards)} shards of {prefix}.")
    hashes = read_hash_list(Path(flags.hashes)) if flags.hashes else None
    progress = ByteProgress(sum(path.stat().st_size for path in shards), "unshard")
    joined = join_shards(
        prefix,
        Path(flags.output_dir) if flags.output_dir else prefix.parent,
        expected_hashes=hashes,
        workers=flags.workers,
        progress=progress.add,
    )
    checked = ", every sha256 as in the list" if hashes else ""
    print(
        f"wrote {joined}: {progress.done_bytes} bytes of {len(shards)} shards "
        f"({progress.gigabytes_per_second:.2f} GB/s){checked}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input_file", required=True, metavar="BIN", help="the first shard (any of them will do)")
    parser.add_argument("--num_shards", type=int, help="how many there are; counted when left out")
    parser.add_argument("--output_dir", metavar="DIR", help="where to write (beside the shards)")
    parser.add_argument("--hashes", metavar="FILE", help="list of sha256, checked while copying (shard_hashes.txt)")
    parser.add_argument("--workers", type=int, default=4, help="threads that hash (4)")
    return parser


if __name__ == "__main__":
    run_main(main)
