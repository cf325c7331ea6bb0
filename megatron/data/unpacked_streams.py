"""Bytes of a file as they are, or unpacked from gzip or zstd; what can still be read of a damaged file is read."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, Protocol

from megatron.errors import SettingsError

PACKED = (".gz", ".zst")
DAMAGE = (EOFError, OSError, zlib.error)


class Stream(Protocol):
    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes, at least one before the end; raises one of DAMAGE where the file is cut or damaged."""
        ...


def unpacked(path: Path, file: BinaryIO, packing: str) -> Stream:
    """The content of `file`, opened from `path`; packing: "", ".gz" or ".zst"."""
    if packing == ".gz":
        return gzip.GzipFile(fileobj=file)
    if packing == ".zst":
        return _ZstdStream(path, file)
    return file  # type: ignore[return-value]  # BinaryIO lacks read1, open(..., "rb") has it


def skip(stream: Stream, count: int) -> None:
    """Read and forget `count` bytes; fewer when the stream ends before."""
    while count and (data := stream.read1(min(count, 1 << 20))):
        count -= len(data)


class _ZstdStream:
    """Frame after frame; EOFError when the last is cut, of which zstandard's own reader says nothing."""

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
        self._ready = memoryview(b"")

    def read1(self, size: int, /) -> bytes:
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
                self._fed = False
            packed = packed or self._file.read(1 << 17)
            if not packed:
                if self._fed:
                    raise EOFError("the compressed data end in the middle")
                return b""
            self._fed = True
            try:
                self._ready = memoryview(self._frame.decompress(packed))
            except self._error as error:
                raise OSError(f"damaged zstd data ({error})") from error
        data, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return data
