"""The bytes of a `.bin`: one file, or shards `<prefix>-00000-of-00082.bin` read as if they were joined.

The number after `of` is the last index, not the count. The `.idx` is never sharded: its offsets count from the start of
the first shard. A shard may end anywhere, even inside a token.
"""

import bisect
import os
import re
import weakref
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from megatron.errors import DataError

_SHARD = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<last>\d{5})\.bin")


class TokenFile:
    """Read-only bytes of one or several files in a row, with `pread`: no file is mapped, nothing is read ahead.

    paths: the files in order.  num_bytes: of all of them together.  Safe after fork and from several threads.
    DataError, naming file and byte, where a file cannot be read or has become shorter than it was at opening.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._files: list[int] = []
        weakref.finalize(self, _close_all, self._files)
        for path in self.paths:
            try:
                self._files.append(os.open(path, os.O_RDONLY))
            except OSError as error:
                raise DataError(f"{path}: cannot read the file: {error}.") from error
        self.sizes = tuple(os.fstat(file).st_size for file in self._files)
        self.starts = (0, *accumulate(self.sizes))
        self.num_bytes = self.starts[-1]

    @property
    def name(self) -> str:
        """The file, or "first to last" of the shards."""
        return str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} to {self.paths[-1].name}"

    def locate(self, offset: int) -> tuple[int, int]:
        """Number of the file that holds byte `offset`, and the byte within it."""
        number = min(bisect.bisect_right(self.starts, offset), len(self.paths)) - 1
        return number, offset - self.starts[number]

    def place(self, offset: int) -> str:
        """Byte `offset` in words: the file it lies in, and where."""
        number, within = self.locate(offset)
        return f"{self.paths[number]}, byte {within}"

    def read(self, wanted: int, offset: int) -> bytes:
        """`wanted` bytes from byte `offset` on."""
        number, within = self.locate(offset)
        data = self._pread(number, wanted, within)
        if len(data) == wanted:
            return data
        buffer = bytearray(wanted)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (bytes) from byte `offset` on; for reading large files through one small block."""
        done = 0
        while done < len(buffer):
            number, within = self.locate(offset + done)
            step = min(len(buffer) - done, self.sizes[number] - within)
            try:
                count = os.preadv(self._files[number], [buffer[done : done + step]], within) if step > 0 else 0
            except OSError as error:
                raise self._unreadable(number, step, within, error) from error
            if count == 0:
                raise self._too_short(number, len(buffer) - done, within)
            done += count

    def read_many(
        self, buffer: memoryview, targets: Sequence[int], lengths: Sequence[int], offsets: Sequence[int]
    ) -> None:
        """Several `read_into` in one call: piece k goes to buffer[targets[k] : targets[k] + lengths[k]]."""
        pieces = [buffer[target : target + length] for target, length in zip(targets, lengths, strict=True)]
        for piece, offset in zip(pieces, offsets, strict=True):
            try:
                whole = len(self._files) == 1 and os.preadv(self._files[0], (piece,), offset) == len(piece)
            except OSError:
                whole = False
            if not whole:
                self.read_into(piece, offset)  # over the edge of a shard; or says what is wrong

    def _pread(self, number: int, wanted: int, within: int) -> bytes:
        try:
            return os.pread(self._files[number], wanted, within)
        except OSError as error:
            raise self._unreadable(number, wanted, within, error) from error

    def _unreadable(self, number: int, wanted: int, within: int, error: OSError) -> DataError:
        return DataError(f"{self.paths[number]}: reading {wanted} bytes at byte {within} failed: {error}.")

    def _too_short(self, number: int, wanted: int, within: int) -> DataError:
        now = os.fstat(self._files[number]).st_size
        return DataError(
            f"{self.paths[number]}: expected {wanted} more bytes at byte {within}, found {max(0, now - within)}: the "
            f"file had {self.sizes[number]} bytes when it was opened and has {now} now, it was shortened while in "
            "use. Copy or build it again."
        )


def open_tokens(prefix: Path) -> TokenFile | None:
    """`<prefix>.bin` or, where it is not there, its shards; None where neither is."""
    joined = Path(f"{prefix}.bin")
    if joined.is_file():
        return TokenFile([joined])
    shards = find_shards(prefix)
    return TokenFile(shards) if shards else None


def find_shards(prefix: Path) -> list[Path]:
    """The complete row of shards of `<prefix>.bin`, empty where there is none.

    DataError for a gap, for two rows of different length, and for a shard (not the last) of an odd size.
    """
    found: dict[int, dict[int, Path]] = {}
    for path in prefix.parent.glob(f"{_escaped(prefix.name)}-*-of-*.bin"):
        match = _SHARD.fullmatch(path.name)
        if match and match["prefix"] == prefix.name:
            found.setdefault(int(match["last"]), {})[int(match["number"])] = path
    if not found:
        return []
    if len(found) > 1:
        rows = " and ".join(f"{len(row)} of -of-{last:05d}" for last, row in sorted(found.items()))
        raise DataError(f"{prefix}: shards of different rows lie together: {rows}. Keep one row in the folder.")
    ((last, row),) = found.items()
    missing = [number for number in range(last + 1) if number not in row]
    if missing or len(row) != last + 1:
        names = ", ".join(f"{prefix.name}-{number:05d}-of-{last:05d}.bin" for number in missing[:5])
        raise DataError(
            f"{prefix}: {len(row)} of {last + 1} shards are there (the number after `of` is that of the last shard); "
            f"{'missing: ' + names if missing else 'there are numbers beyond it'}"
            f"{', ...' if len(missing) > 5 else ''}."
        )
    shards = [row[number] for number in range(last + 1)]
    _check_equal_sizes(shards)
    return shards


def prefix_of_shard(path: Path) -> Path | None:
    """What all shards of this one's row are named after; None for a name that is not a shard's."""
    match = _SHARD.fullmatch(path.name)
    return path.with_name(match["prefix"]) if match else None


def shard_path(prefix: Path, number: int, last: int) -> Path:
    """The name of shard `number` where the last one has the number `last`."""
    return Path(f"{prefix}-{number:05d}-of-{last:05d}.bin")


def _check_equal_sizes(shards: Sequence[Path]) -> None:
    sizes = [path.stat().st_size for path in shards]
    whole = max(sizes[:-1], default=sizes[-1])
    for path, size in zip(shards, sizes, strict=True):
        if size != whole and (path != shards[-1] or size > whole):
            raise DataError(
                f"{path}: {size} bytes, expected {whole}: all shards but the last are of one size, and the last is not "
                "larger. A file is cut, or two have changed names: tools/datasets/checksum_shards.py says which."
            )


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)
