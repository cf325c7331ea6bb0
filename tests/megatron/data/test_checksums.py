"""Lists of hashes in both forms, verdicts in the order of the list, faults with their line."""

import hashlib
from pathlib import Path

import pytest

from megatron.data.checksums import read_hash_list, sha256_of, verify, write_hash_list
from megatron.errors import DataError


def test_hash_of_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than two blocks
    (tmp_path / "file").write_bytes(data)
    steps: list[int] = []
    assert sha256_of(tmp_path / "file", steps.append) == hashlib.sha256(data).hexdigest()
    assert sum(steps) == len(data) and len(steps) > 2
    with pytest.raises(DataError, match="none: cannot read"):
        sha256_of(tmp_path / "none")


def test_lists(tmp_path: Path) -> None:
    one, two = "a" * 64, "B" * 64
    (tmp_path / "list").write_text(f"x.bin {one}\n\n{two}  ./y y.bin\n{one} *z.bin\r\nx.bin   {one}\n")
    assert read_hash_list(tmp_path / "list") == {"x.bin": one, "y y.bin": "b" * 64, "z.bin": one}
    for text, words in (
        (f"x.bin {one}\nx.bin {two}\n", ":2: x.bin comes a second time"),
        (f"x.bin {one[1:]}\n", ":1: expected a file name and its sha256"),
        (one, ":1: expected a file name"),
        ("\n", "no hashes"),
    ):
        (tmp_path / "list").write_text(text)
        with pytest.raises(DataError, match=words):
            read_hash_list(tmp_path / "list")


@pytest.mark.parametrize("workers", [1, 3])
def test_verdicts(tmp_path: Path, workers: int) -> None:
    names = [f"{number}.bin" for number in range(5)]
    for name in names:
        (tmp_path / name).write_text(name)
    write_hash_list(tmp_path / "list", [tmp_path / name for name in names], workers)
    (tmp_path / names[1]).write_text("changed")
    (tmp_path / names[3]).unlink()
    verdicts = list(verify(tmp_path, read_hash_list(tmp_path / "list"), workers))
    assert [verdict.path.name for verdict in verdicts] == names
    assert [verdict.is_right for verdict in verdicts] == [True, False, True, False, True]
    assert "MISSING" in verdicts[3].describe() and "expected" in verdicts[1].describe()
