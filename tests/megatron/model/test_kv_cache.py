"""The cache returns everything appended, in order, through every growth of its buffers."""

import pytest
import torch

from megatron.model.kv_cache import KVCache


def test_appended_parts_come_back_joined(monkeypatch):
    monkeypatch.setattr("megatron.model.kv_cache._FIRST_CAPACITY", 2)
    cache = KVCache()
    ids = torch.arange(40).view(2, 20)
    keys, values = torch.randn(2, 2, 3, 20, 4).unbind()
    start = 0
    for length in (1, 1, 3, 1, 9, 5):
        part = slice(start, start + length)
        assert torch.equal(cache.read(ids[:, part]), ids[:, : part.stop])
        for layer in (0, 1):
            sign = 1 - 2 * layer
            key, value = cache.append(layer, sign * keys[:, :, part], sign * values[:, :, part])
            assert torch.equal(key, sign * keys[:, :, : part.stop])
            assert torch.equal(value, sign * values[:, :, : part.stop])
        start = part.stop
    assert cache.length == 20


def test_another_batch_is_refused():
    cache = KVCache()
    cache.read(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"2 rows, but 1 came"):
        cache.read(torch.zeros(1, 1, dtype=torch.int64))


def test_first_real_is_that_of_the_first_call():
    cache = KVCache()
    cache.read(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([1, 0]))
    cache.read(torch.zeros(2, 1, dtype=torch.int64))
    assert cache.first_real.tolist() == [1, 0]
