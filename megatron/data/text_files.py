"""Raw documents from text files: lines of .jsonl files, whole .txt files, either compressed with gzip or zstd."""

import difflib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from megatron.errors import DataError, SettingsError

LINES = (".jsonl", ".ndjson", ".json")
WHOLE = (".txt",)
PACKED = (".gz", ".zst")
ENDINGS = ", ".join((*LINES, *WHOLE)) + ", each also with .gz or .zst"


@dataclass(frozen=True)
class RawDocument:
    """One document as found. `damage` tells why there is none at this place."""

    path: str
    line: int
    data: bytes
    is_json: bool
    damage: str | None = None


class TextFiles:
    """All documents of the given files, in order; knows how far it has read.

    total_bytes, bytes_read: as on disk, compressed files counted compressed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.total_bytes = sum(path.stat().st_size for path in self.paths)
        self._finished_bytes = 0
        self._current: BinaryIO | None = None

    @property
    def bytes_read(self) -> int:
        return self._finished_bytes + (self._current.tell() if self._current else 0)

    def __iter__(self) -> Iterator[RawDocument]:
        for path in self.paths:
            with path.open("rb") as file:
                self._current = file
                yield from self._documents(path, file)
                self._current = None
            self._finished_bytes += path.stat().st_size

    def _documents(self, path: Path, file: BinaryIO) -> Iterator[RawDocument]:
        kind, packing = _kind(path)
        is_json = kind in LINES
        number = 0
        try:
            stream = _unpacked(path, file, packing)
            for number, data in enumerate(stream if is_json else [stream.read()], start=1):
                yield RawDocument(str(path), number, data, is_json)
        except (EOFError, OSError, zlib.error) as error:
            yield RawDocument(
                str(path), number + 1, b"", is_json, f"unreadable from here to the end of the file: {error}"
            )
        if number == 0 and path.stat().st_size == 0:
            yield RawDocument(str(path), 1, b"", is_json, "the file is empty")


def find_text_files(inputs: Sequence[str]) -> list[Path]:
    """The files meant by `--input`: paths, folders (their files by name), comma lists of either.

    DataError for what does not exist or has an unknown ending.
    """
    found: list[Path] = []
    for item in inputs:
        for name in [item] if Path(item).exists() else item.split(","):
            path = Path(name)
            if path.is_dir():
                inside = sorted(entry for entry in path.iterdir() if entry.is_file() and _kind(entry)[0])
                if not inside:
                    raise DataError(f"--input: no text files in the folder {path}; expected names ending in {ENDINGS}.")
                found += inside
            elif not path.is_file():
                raise _missing(path)
            elif not _kind(path)[0]:
                raise DataError(f"--input: {path} has an unknown ending; expected {ENDINGS}.")
            else:
                found.append(path)
    return found


def _kind(path: Path) -> tuple[str, str]:
    """(ending that says what is inside or "", ending that says how it is packed or "")."""
    packing = path.suffix if path.suffix in PACKED else ""
    ending = Path(path.stem).suffix if packing else path.suffix
    return (ending if ending in LINES + WHOLE else ""), packing


def _missing(path: Path) -> DataError:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    return DataError(f"--input: {path} does not exist.{hint}")


def _unpacked(path: Path, file: BinaryIO, packing: str) -> BinaryIO:
    if packing == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if packing == ".zst":
        return io.BufferedReader(_ZstdStream(path, file), buffer_size=1 << 20)
    return file


class _ZstdStream(io.RawIOBase):
    """Decompresses frame after frame; EOFError when the last is cut, of which zstandard's own reader says nothing."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise SettingsError(f"{path}: reading .zst needs a package: pip install zstandard") from error
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._error = zstandard.ZstdError
        self._file = file
        self._frame = self._decompressor.decompressobj()
        self._fed = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed asks for any Buffer
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
                self._fed = False
            packed = packed or self._file.read(1 << 17)
            if not packed:
                if self._fed:
                    raise EOFError("the compressed data end in the middle")
                return 0
            self._fed = True
            try:
                self._ready = self._frame.decompress(packed)
            except self._error as error:
                raise OSError(f"damaged zstd data ({error})") from error
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
