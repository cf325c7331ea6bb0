"""A folder of built index arrays, found by what they were built from, safe with any number of builders at once.

An entry is a folder named after the hash of its description (content of the data, document range, every option). It
is written under a temporary name and renamed, so that it is there whole or not at all. Builders on one machine wait
for the first; where files cannot be locked they build the same thing side by side, and the first to finish wins.
"""

import contextlib
import fcntl
import json
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from megatron.data.fingerprint import file_fingerprint, manifest_fingerprint
from megatron.errors import DataError

VERSION = 1
MANIFEST = "manifest.json"
Say = Callable[[str], None]


class ArrayWriter(Protocol):
    """Where a builder puts its arrays."""

    def save(self, name: str, array: np.ndarray) -> None: ...

    def save_blocks(self, name: str, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None: ...


class MemoryArrays(dict[str, np.ndarray]):
    """An ArrayWriter that keeps the arrays, for a machine without a writable folder."""

    def save(self, name: str, array: np.ndarray) -> None:
        self[name] = array

    def save_blocks(self, name: str, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
        self[name] = np.concatenate([np.empty((0, *shape[1:]), dtype), *blocks]).astype(dtype, copy=False)


class FolderArrays:
    """An ArrayWriter that makes `<folder>/<name>.npy`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, name: str, array: np.ndarray) -> None:
        self.save_blocks(name, array.dtype, array.shape, [array])

    def save_blocks(self, name: str, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with (self.folder / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype).data.cast("B"))


class IndexCache:
    """Index arrays under `folder`, or built anew in memory each time when it is None or cannot be written.

    say: told what is built and why, in one sentence.
    """

    def __init__(self, folder: Path | None, say: Say) -> None:
        self.folder, self.say = folder, say

    def arrays(
        self, name: str, description: dict[str, Any], build: Callable[[ArrayWriter], None]
    ) -> dict[str, np.ndarray]:
        """The arrays that `build` makes for this description, read-only and mapped from the cache where possible.

        name: for people. description: JSON-able, everything that the arrays depend on.
        """
        if self.folder is None:
            return self._in_memory(build)
        entry = self.folder / manifest_fingerprint({"version": VERSION, **description})[:32]
        found = self._load(entry)
        if found is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / f"{entry.name}.lock") as alone:
                found = self._load(entry)  # another process may have built it while this one waited
                if found is not None:
                    return found
                if alone:
                    _remove_drafts(entry)
                self._build(entry, name, description, build)
        except OSError as error:
            self.say(
                f"{self.folder}: cannot keep the index there ({error}); it is built in memory. Set data_cache_path."
            )
            return self._in_memory(build)
        found = self._load(entry)
        if found is None:
            raise DataError(f"{entry}: the index cannot be read back. Is the disk full or failing? Delete the folder.")
        return found

    def _in_memory(self, build: Callable[[ArrayWriter], None]) -> dict[str, np.ndarray]:
        arrays = MemoryArrays()
        build(arrays)
        return dict(arrays)

    def _build(self, entry: Path, name: str, description: dict[str, Any], build: Callable[[ArrayWriter], None]) -> None:
        self.say(f"Building the sample index of {name}: {self._reason(name, description)}.")
        draft = entry.with_name(f"{entry.name}.{socket.gethostname()}.{uuid.uuid4().hex[:8]}.tmp")
        draft.mkdir()
        try:
            build(FolderArrays(draft))
            files = {path.name: file_fingerprint(path) for path in sorted(draft.glob("*.npy"))}
            text = json.dumps({"version": VERSION, "name": name, "description": description, "files": files}, indent=1)
            (draft / MANIFEST).write_text(text, encoding="utf-8")
            if entry.exists() and self._load(entry) is None:
                shutil.rmtree(entry)
            with contextlib.suppress(FileExistsError):
                _rename(draft, entry)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _reason(self, name: str, description: dict[str, Any]) -> str:
        """Why nothing in the cache fits: what differs from the entry of the same name."""
        assert self.folder is not None
        differences = [
            sorted(key for key in description.keys() | other.keys() if description.get(key) != other.get(key))
            for other in _descriptions(self.folder, name)
        ]
        if not differences:
            return f"none in {self.folder} yet"
        nearest = min(differences, key=len)
        return f"the one in {self.folder} was made for other {', '.join(nearest)}" if nearest else "it was damaged"

    def _load(self, entry: Path) -> dict[str, np.ndarray] | None:
        """None where there is no entry, or (said aloud) a damaged one."""
        manifest = _manifest(entry)
        if manifest is None:
            if entry.exists():
                self.say(f"{entry}: the index has no readable {MANIFEST}; it is built again.")
            return None
        arrays = {}
        for name, expected in manifest["files"].items():
            path = entry / name
            try:
                if file_fingerprint(path) != expected:
                    raise ValueError("its content has changed")
                arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                self.say(f"{path}: cannot be used ({error}); the index is built again.")
                return None
        return arrays


def _rename(draft: Path, entry: Path) -> None:
    """FileExistsError when another builder was first (systems differ in what they call it)."""
    try:
        draft.rename(entry)
    except OSError:
        if entry.is_dir():
            raise FileExistsError(entry) from None
        raise


def _manifest(entry: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("version") == VERSION else None


def _descriptions(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    for path in folder.glob(f"*/{MANIFEST}"):
        manifest = _manifest(path.parent)
        if manifest is not None and manifest["name"] == name and path.parent.suffix != ".tmp":
            yield manifest["description"]


def _remove_drafts(entry: Path) -> None:
    """What killed builders of this machine left behind."""
    for draft in entry.parent.glob(f"{entry.name}.{socket.gethostname()}.*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock, which the system releases when its holder dies. False where locks are not supported."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
