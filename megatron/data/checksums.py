"""sha256 of large files, several at once, and lists of such hashes as they are published with data sets."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from megatron.errors import DataError

BLOCK = 1 << 20
_HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Verdict:
    """One file of a list. found: its hash, None where there is no such file."""

    path: Path
    expected: str
    found: str | None

    @property
    def is_right(self) -> bool:
        return self.found == self.expected

    def describe(self) -> str:
        if self.found is None:
            return f"{self.path}: MISSING"
        return f"{self.path}: OK" if self.is_right else f"{self.path}: sha256 {self.found}, expected {self.expected}"


def sha256_of(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """Hash of a whole file in hex; other threads run meanwhile. DataError when it cannot be read."""
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                progress(count)
    except OSError as error:
        raise DataError(f"{path}: cannot read the file: {error}.") from error
    return digest.hexdigest()


def read_hash_list(path: Path) -> dict[str, str]:
    """File name -> sha256, from lines "name sha256" (the Pile's shard_hashes.txt) or "sha256  name" (sha256sum).

    DataError with file and line for anything else, and for a name that comes twice with different hashes.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the list of hashes: {error}.") from error
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        first, _, rest = line.strip().partition(" ")
        name, hashed = (rest.strip().lstrip("*"), first) if _HASH.fullmatch(first) else (first, rest.strip())
        if not (name and _HASH.fullmatch(hashed)):
            raise DataError(f"{path}:{number}: expected a file name and its sha256 (64 hex digits), found {line!r}.")
        name = name.removeprefix("./")
        if hashes.setdefault(name, hashed.lower()) != hashed.lower():
            raise DataError(f"{path}:{number}: {name} comes a second time with another hash.")
    if not hashes:
        raise DataError(f"{path}: no hashes in it; expected lines of a file name and its sha256.")
    return hashes


def verify(
    folder: Path, hashes: dict[str, str], workers: int, progress: Callable[[int], None] = lambda count: None
) -> Iterator[Verdict]:
    """Compare the files of `folder` with a list, `workers` at once; verdicts in the order of the list."""

    def judge(name: str) -> Verdict:
        path = folder / name
        return Verdict(path, hashes[name], sha256_of(path, progress) if path.is_file() else None)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            yield from pool.map(judge, hashes)
        finally:
            pool.shutdown(cancel_futures=True)


def write_hash_list(
    path: Path, files: Sequence[Path], workers: int, progress: Callable[[int], None] = lambda count: None
) -> None:
    """Write "name sha256" for each file, in the form that `read_hash_list` reads."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        lines = [
            f"{file.name} {hashed}\n"
            for file, hashed in zip(files, pool.map(lambda file: sha256_of(file, progress), files), strict=True)
        ]
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_text("".join(lines), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the list of hashes: {error}.") from error
