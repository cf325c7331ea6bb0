"""Blocks of raw documents from files of text or tables, in order, from any place where an earlier run stopped."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron.data.input_files import DATASET, LINES, TABLES, kind_of
from megatron.data.table_files import UnreadableTable, row_batches, table_size
from megatron.data.unpacked_streams import DAMAGE, Stream, skip, unpacked
from megatron.errors import DataError

BLOCK_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 1 << 30


@dataclass(frozen=True)
class Position:
    """A place between documents.

    file: index in the list of files.  line: lines (rows) of that file before this place.  byte: bytes of the unpacked
    file before this place; 0 in tables.
    """

    file: int = 0
    line: int = 0
    byte: int = 0


@dataclass(frozen=True)
class RawDocument:
    """One document as found: a line, a whole file, or a row {column: value}. `damage` tells why there is none here.

    line: counted from 1.  byte: where it begins in the unpacked file; None for rows.
    """

    path: str
    line: int
    byte: int | None
    data: bytes | dict[str, Any]
    is_json: bool = False
    damage: str | None = None

    def place(self, offset: int = 0) -> str:
        """`file:line:byte` of the byte `offset` in this document, or `file:row N`."""
        return f"{self.path}:row {self.line}" if self.byte is None else f"{self.path}:{self.line}:{self.byte + offset}"


@dataclass(frozen=True)
class Block:
    """Neighbouring documents of one file, cheap to hand to another process, which cuts it up with `documents()`.

    start: of the first; end: of what follows the last.  read_bytes: of all input so far, as it lies on disk.  Either
    `text` (whole lines, or one whole file), `rows` (values by column) or `damage` is filled.
    """

    path: str
    start: Position
    end: Position
    read_bytes: int
    text: bytes = b""
    is_json: bool = False
    rows: dict[str, list[Any]] | None = None
    damage: str | None = None
    in_table: bool = False

    @property
    def size(self) -> int:
        """Bytes of text, roughly."""
        if self.rows is not None:
            return sum(len(value) for column in self.rows.values() for value in column if isinstance(value, str))
        return len(self.text)

    def documents(self) -> Iterator[RawDocument]:
        line, byte = self.start.line + 1, None if self.in_table else self.start.byte
        if self.damage:
            yield RawDocument(self.path, line, byte, b"", damage=self.damage)
        elif self.rows is not None:
            for number, values in enumerate(zip(*self.rows.values(), strict=True)):
                yield RawDocument(self.path, line + number, None, dict(zip(self.rows, values, strict=True)))
        elif self.is_json:
            byte = self.start.byte
            for number, data in enumerate(io.BytesIO(self.text)):
                yield RawDocument(self.path, line + number, byte, data, is_json=True)
                byte += len(data)
        else:
            yield RawDocument(self.path, line, byte, self.text)


@dataclass
class TextFiles:
    """All documents of the given files, in order.

    columns: those to read from tables.  total_bytes: as on disk, compressed files counted compressed.
    """

    paths: Sequence[Path]
    columns: Sequence[str] = field(default=("text",))

    def __post_init__(self) -> None:
        self.sizes = [table_size(path) if path.is_dir() else path.stat().st_size for path in self.paths]

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes)

    def blocks(self, start: Position | None = None) -> Iterator[Block]:
        """Everything after `start`, which must be the `end` of a block of an earlier call."""
        start = start or Position()
        finished = sum(self.sizes[: start.file])
        for number in range(start.file, len(self.paths)):
            at = start if number == start.file else Position(number)
            if kind_of(self.paths[number])[0] in (*TABLES, DATASET):
                yield from self._rows(number, at, finished)
            else:
                yield from self._text(number, at, finished)
            finished += self.sizes[number]

    def documents(self) -> Iterator[RawDocument]:
        """One by one."""
        for block in self.blocks():
            yield from block.documents()

    def _rows(self, number: int, at: Position, finished: int) -> Iterator[Block]:
        path = self.paths[number]
        read_bytes = finished + self.sizes[number]  # known only once the file is through
        try:
            for rows in row_batches(path, self.columns, at.line):
                end = Position(number, at.line + len(next(iter(rows.values()))))
                yield Block(str(path), at, end, finished, rows=rows, in_table=True)
                at = end
            yield Block(str(path), at, at, read_bytes, rows={name: [] for name in self.columns}, in_table=True)
        except UnreadableTable as error:
            yield Block(str(path), at, Position(number + 1), read_bytes, damage=str(error), in_table=True)

    def _text(self, number: int, at: Position, finished: int) -> Iterator[Block]:
        path = self.paths[number]
        kind, packing = kind_of(path)
        is_json = kind in LINES
        if self.sizes[number] == 0:
            yield Block(str(path), at, Position(number + 1), finished, damage="the file is empty")
            return
        with path.open("rb") as file:
            stream = unpacked(path, file, packing)
            try:
                if packing:
                    skip(stream, at.byte)
                else:
                    file.seek(at.byte)
            except DAMAGE as error:
                raise DataError(f"{path}: cannot go back to byte {at.byte}: {error}. Has the file changed?") from error
            for piece in _lines(stream) if is_json else _whole(stream):
                read = finished + min(file.tell(), self.sizes[number])
                lines = piece.text.count(b"\n") + (not piece.text.endswith(b"\n")) if is_json else 1
                if piece.damage:
                    end = Position(number, at.line + 1, at.byte + piece.skipped)
                    end = Position(number + 1) if piece.is_last else end
                    yield Block(str(path), at, end, read, damage=piece.damage)
                else:
                    end = Position(number, at.line + lines, at.byte + len(piece.text))
                    yield Block(str(path), at, end, read, text=piece.text, is_json=is_json)
                at = end


@dataclass(frozen=True)
class _Piece:
    """Text, or the reason why `skipped` bytes are none; is_last: nothing more of the file can be read."""

    text: bytes = b""
    skipped: int = 0
    damage: str | None = None
    is_last: bool = False


def _whole(stream: Stream) -> Iterator[_Piece]:
    parts: list[bytes] = []
    size = 0
    try:
        while data := stream.read1(BLOCK_BYTES):
            size += len(data)
            if size <= MAX_DOCUMENT_BYTES:
                parts.append(data)
            else:
                parts.clear()
    except DAMAGE as error:
        yield _Piece(damage=f"unreadable after {size} bytes: {error}", is_last=True)
        return
    yield _Piece(b"".join(parts)) if size <= MAX_DOCUMENT_BYTES else _too_long(size)


def _lines(stream: Stream) -> Iterator[_Piece]:
    """Pieces of whole lines, of at least BLOCK_BYTES but for the last; memory is that of one piece and one line."""
    parts: list[bytes] = []  # what follows the last newline handed out; `complete` when it holds another newline
    size, complete = 0, False
    too_long = 0  # bytes so far of a line that is skipped
    while True:
        try:
            data = stream.read1(BLOCK_BYTES)
        except DAMAGE as error:
            if too_long:
                yield _too_long(too_long)
            elif size:
                yield _Piece(b"".join(parts))
            yield _Piece(damage=f"unreadable from here to the end of the file: {error}", is_last=True)
            return
        if not data:
            break
        if too_long:
            cut = data.find(b"\n") + 1
            too_long += cut or len(data)
            if not cut:
                continue
            yield _too_long(too_long)
            data, too_long = data[cut:], 0
        cut = data.rfind(b"\n") + 1
        parts.append(data)
        size, complete = size + len(data), complete or cut > 0
        if complete and size >= BLOCK_BYTES:
            joined = b"".join(parts)
            cut = joined.rfind(b"\n") + 1
            yield _Piece(joined[:cut])
            parts, size, complete = [joined[cut:]], len(joined) - cut, False
        if size > MAX_DOCUMENT_BYTES and not complete:
            parts, too_long, size = [], size, 0
    if too_long:
        yield _too_long(too_long)
    elif size:
        yield _Piece(b"".join(parts))


def _too_long(size: int) -> _Piece:
    return _Piece(skipped=size, damage=f"a document of {size} bytes; at most {MAX_DOCUMENT_BYTES} are taken")
