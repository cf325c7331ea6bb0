"""The kernels against float64 attention under two loops' mask: in Triton's interpreter here, on a GPU where one is."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version

import numpy
import pytest

from tests.helpers.shared import REPOSITORY
from tests.sepllm.attention.triton.checks import all_checks

QUICK = (
    "one token",
    "no separators",
    "nothing far at all",
    "separators at q-n and q-n+1",
    "window of one",
    "only separators, window of 2",
    "only separators, window of 31",
    "more initial tokens than text",
    "documents, limit, padding",
    "decoding, several queries",
    "views of one projection",
    "the same bits again",
)
# Several difficulties at once; the rest, one by one, is left to `make test-all`, and to GPUs.
TOGETHER = (
    "odd length, ragged batch",
    "left padding, fixed",
    "documents, initial tokens per row",
    "ALiBi, grouped, padding",
    "heads of 24",
    "heads of 80",
    "bfloat16",
    "float16",
)
ONE_BY_ONE = tuple(name for name in all_checks("cpu") if name not in QUICK + TOGETHER)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _why_not_interpreted() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton (pip install triton)"
    if _numbers(version("triton")) < (3, 7) and _numbers(numpy.__version__) >= (2, 4):
        return "the interpreter of Triton below 3.7 fails with numpy 2.4 and newer"
    return None


interpreter = pytest.mark.skipif(_why_not_interpreted() is not None, reason=str(_why_not_interpreted()))


def _interpret(names: Sequence[str]) -> dict[str, str | None]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.sepllm.attention.triton.interpreted", *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@interpreter
def test_hard_cases_in_the_interpreter() -> None:
    found = _interpret(QUICK)
    assert found == dict.fromkeys(QUICK)


@interpreter
@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [TOGETHER, pytest.param(ONE_BY_ONE, marks=pytest.mark.exhaustive)], ids=["together", "one by one"]
)
def test_everything_in_the_interpreter(names: tuple[str, ...]) -> None:
    found = _interpret(names)
    assert found == dict.fromkeys(names)


@pytest.mark.gpu
@pytest.mark.parametrize("name", all_checks("cuda"))
def test_everything_on_a_gpu(name: str) -> None:
    all_checks("cuda")[name]()
