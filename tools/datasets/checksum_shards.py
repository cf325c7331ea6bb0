"""Check downloaded shards (or any files) against a list of sha256, several files at once; or write such a list.

python tools/datasets/checksum_shards.py --input_dir pile --hashes pile/shard_hashes.txt
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.data.checksums import read_hash_list, verify, write_hash_list
from megatron.data.progress import ByteProgress
from megatron.errors import DataError
from megatron.launcher.entry import run_main

_EPILOG = """\
The list has lines "name sha256", as published with the Pile, or "sha256  name", as sha256sum writes them.
exit codes: 0 all as in the list, 2 usage, 3 a file is missing or differs, or the list cannot be read."""


def main() -> None:
    """Parse the flags, hash, print a line for each file."""
    flags = _parser().parse_args()
    folder = Path(flags.input_dir)
    hash_list = Path(flags.hashes) if flags.hashes else folder / "shard_hashes.txt"
    if flags.write:
        _write(folder, hash_list, flags.workers)
        return
    hashes = read_hash_list(hash_list)
    progress = ByteProgress(
        sum(path.stat().st_size for path in map(folder.joinpath, hashes) if path.is_file()), "sha256"
    )
    wrong = []
    for verdict in verify(folder, hashes, flags.workers, progress.add):
        print(verdict.describe(), flush=True)
        if not verdict.is_right:
            wrong.append(verdict)
    rate = f"{progress.done_bytes / 1e9:.2f} GB, {progress.gigabytes_per_second:.2f} GB/s"
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(hashes)} files are not as in {hash_list} ({rate}); the first: "
            f"{wrong[0].describe()}. Download them again."
        )
    print(f"all {len(hashes)} files are as in {hash_list} ({rate})")


def _write(folder: Path, hash_list: Path, workers: int) -> None:
    files = sorted(path for ending in ("*.bin", "*.idx") for path in folder.glob(ending))
    if not files:
        raise DataError(f"{folder}: no .bin or .idx files there.")
    progress = ByteProgress(sum(path.stat().st_size for path in files), "sha256")
    write_hash_list(hash_list, files, workers, progress.add)
    print(f"wrote {hash_list}: {len(files)} files, {progress.gigabytes_per_second:.2f} GB/s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input_dir", default=".", metavar="DIR", help="folder of the files (this one)")
    parser.add_argument("--hashes", metavar="FILE", help="the list (DIR/shard_hashes.txt)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="files at once (all cores)")
    parser.add_argument(
        "--write", action="store_true", help="write the list for the .bin and .idx files of DIR instead"
    )
    return parser


if __name__ == "__main__":
    run_main(main)
