"""Layouts that do not fit the number of ranks; a world of one."""

from datetime import timedelta

import pytest

from megatron.errors import SettingsError
from megatron.mpu.parallel_state import initialize_parallel, single_process


def test_sizes_that_do_not_divide(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "6", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"6 ranks cannot be split into model_parallel_size 2 x .*2 = 4 ranks"):
        initialize_parallel(tp_size=2, pp_size=2, backend="gloo", timeout=timedelta(seconds=5))


def test_a_single_process_is_rank_0_of_1():
    state = single_process()
    assert (state.rank, state.world_size, state.tp.size, state.pp_size, state.dp_size) == (0, 1, 1, 1, 1)
