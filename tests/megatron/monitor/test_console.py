"""Step lines keep their columns; durations read well."""

import math
from dataclasses import replace

import pytest

from megatron.monitor.console import StepConsole, format_duration, format_figures, format_norm, format_step, header
from megatron.monitor.step_result import StepResult

RESULT = StepResult(
    iteration=10,
    train_iters=143_000,
    loss=10.82456,
    lr=6e-4,
    grad_norm=1.23456,
    tokens_per_second=12345.6,
    samples_per_second=6.03,
    consumed_samples=10_240,
    consumed_tokens=20_971_520,
    kept_ratio=0.2134,
    seconds=0.518,
    eta_seconds=515.0,
    tflops=1.2345,
    peak_memory=1_879_048_192,
)


def test_one_line_holds_it_all() -> None:
    line = format_step(RESULT)
    for part in (
        "10/143000",
        "10.8246",
        "6.00e-04",
        "1.235",
        "12,346",
        "1.23",
        "10,240",
        "21.3%",
        "1.75",
        "0.52",
        "8m35s",
    ):
        assert part in line.split()
    assert "skipped" not in line and "scale" not in line


@pytest.mark.parametrize(
    "changed",
    [
        {"iteration": 143_000, "loss": 0.5, "eta_seconds": 0.0},
        {"loss": math.nan, "grad_norm": math.inf},
        {"grad_norm": None, "kept_ratio": None, "eta_seconds": None, "tflops": None, "peak_memory": None},
        {"tflops": 812.3, "tokens_per_second": 1e6},
        {"tokens_per_second": 98_765_432.1, "consumed_samples": 999_999_999, "seconds": 123.4, "eta_seconds": 9e6},
        {"grad_norm": 123456.7, "kept_ratio": 1.0},
    ],
)
def test_columns_stay_in_place(changed: dict) -> None:
    titles, line = header(RESULT.train_iters), format_step(replace(RESULT, **changed))
    assert len(line) == len(titles) == len(format_step(RESULT))
    ends = [titles.index(title) + len(title) for title in ("loss", "grad norm", "tokens/s", "kept", "left")]
    for end in ends:
        assert line[end - 1] != " " and (end == len(line) or line[end] == " ")


def test_skipped_steps_and_the_loss_scale_stand_at_the_end() -> None:
    assert format_step(replace(RESULT, skipped=3, loss_scale=65536.0)).endswith("8m35s  scale  2^16  skipped 3")
    assert format_step(replace(RESULT, loss_scale=16.0)).endswith("8m35s  scale   2^4  skipped 0")
    assert format_step(replace(RESULT, loss_scale=1000.0)).endswith("8m35s  scale  1000  skipped 0")
    assert format_step(replace(RESULT, noise_scale=812.4)).endswith("8m35s  noise   812")
    assert format_step(replace(RESULT, mfu=0.4567)).endswith("8m35s  mfu 45.7%")


def test_titles_come_back() -> None:
    said: list[str] = []
    console = StepConsole(said.append, header_every=2)
    for _ in range(3):
        console.show(RESULT)
    console.interrupted()
    console.show(RESULT)
    titles = header(RESULT.train_iters)
    assert [line == titles for line in said] == [True, False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (515, "8m35s"),
        (3600, "1h00m"),
        (11_220, "3h07m"),
        (187_200, "2d04h"),
        (86_400 * 400, "400d00h"),
        (-1, "?"),
        (math.nan, "?"),
        (math.inf, "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_small_numbers() -> None:
    assert [format_figures(value) for value in (0.0523, 0.518, 5.2, 51.97, 519.7)] == [
        "0.052",
        "0.52",
        "5.20",
        "52.0",
        "520",
    ]
    assert [format_norm(value) for value in (0.1234, 12.3456, 123456.0, math.inf)] == [
        "0.123",
        "12.346",
        "1.23e+05",
        "inf",
    ]
