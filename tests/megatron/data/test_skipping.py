"""Skipped positions never come, all others come once and in order, from wherever one starts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron.data.skipping import Skip, SkippingSource

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5)


@given(ranges=RANGES, start=st.integers(0, 50), samples=st.integers(0, 30))
def test_against_a_list_with_holes(ranges: list[tuple[int, int]], start: int, samples: int) -> None:
    skip = Skip(ranges)
    kept = [place for place in range(200) if not any(first <= place < end for first, end in ranges)]
    assert skip.positions(np.arange(60)).tolist() == kept[:60]
    assert skip.number(start) == sum(place < start for place in kept)
    read = [place for place in kept if place >= start][:samples]
    assert skip.positions(skip.number(start) + np.arange(samples)).tolist() == read
    going_on = skip.after(start, samples)
    assert [place for place in kept if place >= going_on][:5] == [p for p in kept if p >= start][samples : samples + 5]


def test_the_source_is_asked_for_kept_positions() -> None:
    class Source:
        def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return positions * 0, positions

        def read_located(self, parts: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return samples, parts

    source = SkippingSource(Source(), Skip([(2, 4)]))
    _, samples = source.locate(np.arange(4))
    assert samples.tolist() == [0, 1, 4, 5]
    assert source.read_located(samples * 0, samples)[0].tolist() == [0, 1, 4, 5]
