"""An engine is built without the compiler; DeepSpeed's Muon is there all the same, and compiles when it is called."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data


@pytest.mark.multiprocess
def test_no_run_imports_the_compiler(tmp_path: Path) -> None:
    config = write_settings(
        tmp_path / "config.yml", tiny_settings(write_tiny_data(tmp_path), num_layers=1, prefill_loc_win_size_list=[8])
    )
    assert run_ranks(imported, 1, str(config)) == [{"muon": True, "compiler": False}]


def imported(config: str) -> dict[str, bool]:
    import sys

    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel

    args = load_arguments([config], [], world_size=1)
    build_run(args, start_parallel(args))
    names = {"muon": "deepspeed.runtime.zero.muon.original_muon", "compiler": "torch._inductor.compile_fx"}
    return {what: name in sys.modules for what, name in names.items()}


def test_the_first_call_decorates() -> None:
    from megatron.training.deferred_muon import _at_first_call

    calls: list[str] = []

    def compile_with(word: str) -> Callable[..., Callable[..., int]]:
        def decorator(function: Callable[..., int]) -> Callable[..., int]:
            calls.append(word)
            return lambda number: function(number) + 1

        return decorator

    @_at_first_call(compile_with, "now")
    def double(number: int) -> int:
        return 2 * number

    assert calls == [] and double.__name__ == "double"
    assert double(3) == double(number=3) == 7
    assert calls == ["now"]
