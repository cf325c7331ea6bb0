"""Rows of Parquet files, Arrow files and folders that Hugging Face `datasets` saved to disk, some columns at a time.

Needs pyarrow; neither `datasets` nor torch is imported.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron.errors import DataError, SettingsError

BATCH_ROWS = 1024


class UnreadableTable(Exception):
    """The table, or the rest of it, cannot be read; the text says why."""


def row_batches(path: Path, columns: Sequence[str], first_row: int = 0) -> Iterator[dict[str, list[Any]]]:
    """Values by column, at most BATCH_ROWS rows at a time, from `first_row` on; in memory of one row group.

    Text that is not UTF-8 comes as bytes. UnreadableTable: no such column, or damage, after the rows before it.
    """
    arrow = _pyarrow(path)
    try:
        for batch in _batches(path, columns):
            if first_row >= batch.num_rows:
                first_row -= batch.num_rows
                continue
            for start in range(first_row, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                yield {name: _values(part.column(name)) for name in columns}
            first_row = 0
    except (arrow.ArrowException, OSError, EOFError) as error:
        raise UnreadableTable(f"unreadable from here to the end of the table: {error}") from error


def table_size(path: Path) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_size for file in _arrow_files(path)) if path.is_dir() else path.stat().st_size


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise SettingsError(f"{path}: reading tables needs a package: pip install pyarrow") from error
    return pyarrow


def _batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches with (at least) the wanted columns."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as table:
            _check_columns(table.schema_arrow.names, columns, table.metadata.num_rows)
            yield from table.iter_batches(batch_size=BATCH_ROWS, columns=list(columns))
        return
    for file in _arrow_files(path) if path.is_dir() else [path]:
        with contextlib.ExitStack() as stack:
            reader = _arrow_reader(file, stack)
            _check_columns(reader.schema.names, columns, None)
            if hasattr(reader, "num_record_batches"):
                yield from map(reader.get_batch, range(reader.num_record_batches))
            else:
                yield from reader


def _arrow_reader(file: Path, stack: contextlib.ExitStack) -> Any:
    """`datasets` writes Arrow streams, others Arrow files: the first six bytes tell which."""
    import pyarrow

    source = stack.enter_context(pyarrow.memory_map(str(file)))
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return stack.enter_context(pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source))


def _arrow_files(folder: Path) -> list[Path]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'state.json'}: not what `datasets` writes with save_to_disk ({error!r})."
        ) from error
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder}: rows are selected by an indices file; save it anew after flatten_indices().")
    for file in files:
        if not file.is_file():
            raise DataError(f"{folder}: state.json names {file.name}, which is not there.")
    return files


def _check_columns(present: Sequence[str], wanted: Sequence[str], num_rows: int | None) -> None:
    for name in wanted:
        if name not in present:
            rows = "all its rows" if num_rows is None else f"all its {num_rows} rows"
            raise UnreadableTable(f"no key {name!r}; the keys are {', '.join(map(repr, present))}: {rows} left out")


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast("large_binary" if "large" in str(column.type) else "binary").to_pylist()
