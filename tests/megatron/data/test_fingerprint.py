"""The fingerprint follows content and length, in small files and large."""

from pathlib import Path

from megatron.data.fingerprint import BLOCK, WHOLE_BELOW, file_fingerprint, manifest_fingerprint


def test_any_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")
    prints = {file_fingerprint(path)}
    for content in (b"abcdeg", b"abcde", b"abcdef\0", b""):
        path.write_bytes(content)
        prints.add(file_fingerprint(path))
    assert len(prints) == 5


def test_ends_and_length_of_a_large_file_count(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = WHOLE_BELOW + 3 * BLOCK
    with path.open("wb") as file:
        file.truncate(size)
    prints = {file_fingerprint(path)}
    with path.open("ab") as file:
        file.write(b"\0")  # nothing but zeros before and after: only the length differs
    prints.add(file_fingerprint(path))
    for place in (0, BLOCK - 1, size):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        prints.add(file_fingerprint(path))
    assert len(prints) == 5


def test_manifest_ignores_the_order_of_its_keys() -> None:
    assert manifest_fingerprint({"a": 1, "b": [2]}) == manifest_fingerprint({"b": [2], "a": 1})
    assert manifest_fingerprint({"a": 1, "b": [2]}) != manifest_fingerprint({"a": 1, "b": [3]})
