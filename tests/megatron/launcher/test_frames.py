"""Frames arrive whole however the bytes are cut, and other people's lines between them stay lines."""

from hypothesis import given
from hypothesis import strategies as st

from megatron.launcher.frames import Splitter, encode

LETTERS = 'ab {}":,1\u00e4\u4e2d'
TEXT = st.text(LETTERS, min_size=1).filter(lambda text: text.strip() and text == text.rstrip())
FRAMES = st.dictionaries(
    st.text(LETTERS, max_size=4), st.one_of(st.integers(), st.text(LETTERS + "\n\x1e"), st.none()), max_size=3
)


@given(st.lists(st.one_of(TEXT, FRAMES), max_size=12), st.lists(st.integers(1, 40), min_size=1, max_size=200))
def test_any_cutting_gives_the_same(sent: list, cuts: list[int]) -> None:
    data = b"".join(encode(one) if isinstance(one, dict) else one.encode() + b"\n" for one in sent)
    splitter, found = Splitter(), []
    while data:
        size = cuts.pop() if cuts else len(data)
        found += splitter.feed(data[:size])
        data = data[size:]
    assert found + splitter.end() == sent


def test_a_frame_behind_words_without_an_end_and_a_broken_frame() -> None:
    splitter = Splitter()
    assert splitter.feed(b"Welcome to node1" + encode({"beat": 1})) == ["Welcome to node1", {"beat": 1}]
    assert splitter.feed(b"\x1e{broken\n\n") == ["\x1e{broken"]
    assert splitter.feed(b"no end") == [] and splitter.end() == ["no end"]


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    splitter = Splitter()
    assert splitter.feed(b"x" * 70_000) == ["x" * 70_000]
