"""Join the shards of a `.bin` and cut a `.bin` into shards, at the speed of the disk.

Output appears under its own name only when it is complete; with a list of hashes every shard is checked on the way.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megatron.data.file_copies import BLOCK, Report, copy_stretch, copy_whole, draft_of, make_room, write_all
from megatron.data.index_file import read_index
from megatron.data.token_file import TokenFile, find_shards, shard_path
from megatron.data.tokenizer_record import carry_record
from megatron.errors import DataError

PILE_SHARD_BYTES = 5_000_000_000


def join_shards(
    prefix: Path,
    output_folder: Path,
    *,
    expected_hashes: dict[str, str] | None = None,
    workers: int = 4,
    progress: Report = lambda count: None,
) -> Path:
    """Write `<output_folder>/<name>.bin` from the shards of `prefix`, and the `.idx` beside it where there is one.

    expected_hashes: sha256 by file name; a shard that differs, or is not in the list, is a DataError and nothing is
    written. So are gaps in the row and a total that does not fit the `.idx`. -> path of the joined file.
    """
    shards = find_shards(prefix)
    if not shards:
        raise DataError(f"{prefix}: no shards there; they are named {shard_path(Path(prefix.name), 0, 82)} and so on.")
    source = TokenFile(shards)
    index = Path(f"{prefix}.idx")
    if index.is_file():
        read_index(index, source.name, source.num_bytes)  # tells a missing, cut or foreign shard before any copying
    target = output_folder / f"{prefix.name}.bin"
    make_room(output_folder, source.num_bytes)
    with draft_of(target) as file:
        os.truncate(file.fileno(), source.num_bytes)
        if expected_hashes is None:
            for path, start in zip(shards, source.starts, strict=False):
                copy_stretch(path, 0, path.stat().st_size, file.fileno(), start, progress)
        else:
            _copy_checked(shards, source.starts, file.fileno(), expected_hashes, workers, progress)
        written = os.fstat(file.fileno()).st_size
        if written != source.num_bytes:
            raise DataError(f"{target}: wrote {written} bytes, expected {source.num_bytes}.")
    if index.is_file() and output_folder.resolve() != prefix.parent.resolve():
        copy_whole(index, output_folder / index.name)
        carry_record([prefix], output_folder / prefix.name)
    return target


def split_file(
    path: Path, output_folder: Path, shard_bytes: int = PILE_SHARD_BYTES, progress: Report = lambda count: None
) -> list[Path]:
    """Cut `path` into shards of `shard_bytes` (the last one holds the rest); the `.idx` is copied, whole, beside them.

    The cuts take no heed of tokens or documents. Shards of an earlier run with other numbers are a DataError.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give the .bin of a data set.")
    size = path.stat().st_size
    last = max(0, -(-size // shard_bytes) - 1)
    if last > 99_999:
        raise DataError(f"{path}: {last + 1} shards of {shard_bytes} bytes are more than names have numbers (100000).")
    prefix = output_folder / path.stem
    others = [
        other.name for other in output_folder.glob(f"{path.stem}-*-of-*.bin") if not other.match(f"*-{last:05d}.bin")
    ]
    if others:
        raise DataError(
            f"{output_folder}: shards of another cut lie there, for instance {others[0]}. Remove them first."
        )
    make_room(output_folder, size)
    shards = [shard_path(prefix, number, last) for number in range(last + 1)]
    drafts: list[Path] = []
    try:
        for number, shard in enumerate(shards):
            drafts.append(shard.with_name(f"{shard.name}.{os.getpid()}.tmp"))
            start = number * shard_bytes
            with drafts[-1].open("wb") as file:
                copy_stretch(path, start, min(shard_bytes, size - start), file.fileno(), 0, progress)
        for draft, shard in zip(drafts, shards, strict=True):
            draft.replace(shard)
    except OSError as error:
        raise DataError(f"{output_folder}: cannot write shards there: {error}.") from error
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
    index = path.with_suffix(".idx")
    if index.is_file() and output_folder.resolve() != path.parent.resolve():
        copy_whole(index, output_folder / index.name)
        carry_record([path.with_suffix("")], prefix)
    return shards


def _copy_checked(
    shards: Sequence[Path],
    starts: Sequence[int],
    target: int,
    expected_hashes: dict[str, str],
    workers: int,
    progress: Report,
) -> None:
    """Copy and hash in one pass, several shards at once."""
    unlisted = [path.name for path in shards if path.name not in expected_hashes]
    if unlisted:
        raise DataError(f"{shards[0].parent}: {unlisted[0]} is not in the list of hashes, which has other names.")

    def copy(path: Path, start: int) -> None:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(BLOCK))
        place = start
        with path.open("rb", buffering=0) as source:
            while count := source.readinto(buffer):
                digest.update(buffer[:count])
                write_all(target, buffer[:count], place)
                place += count
                progress(count)
        if digest.hexdigest() != expected_hashes[path.name]:
            raise DataError(
                f"{path}: sha256 {digest.hexdigest()}, expected {expected_hashes[path.name]}: download it again."
            )

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done in [pool.submit(copy, path, start) for path, start in zip(shards, starts, strict=False)]:
            try:
                done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
