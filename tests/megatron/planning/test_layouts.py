"""Every layout that a plan offers is accepted by the settings, and the best is not worse than any other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.neox_arguments.load import load_arguments
from megatron.planning.command import main, rank
from megatron.planning.cost import fits
from megatron.planning.devices import device, names
from megatron.planning.layouts import Choice, is_legal, legal_choices
from megatron.planning.memory import Memory
from megatron.planning.model import Model

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FILES = [str(CONFIGS / "models" / "410m.yml"), str(CONFIGS / "attention" / "sepllm-n64.yml")]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(load_arguments(FILES), 50277)


def overrides(choice: Choice) -> list[str]:
    return [f"{key}={str(value).lower()}" for key, value in choice.overrides().items()]


def test_what_is_offered_is_accepted_and_uses_every_rank(model: Model) -> None:
    offered = list(legal_choices(model, 16, 8, 1024))
    assert len(set(offered)) == len(offered) > 100
    assert {choice.zero for choice in offered if choice.pp > 1} == {1}
    assert {choice.zero for choice in offered} == {1, 2, 3}
    for choice in offered[:: len(offered) // 12]:
        assert choice.world == 16 and choice.dp * choice.micro * choice.accumulation == 1024
        args = load_arguments(FILES, overrides(choice), world_size=16)
        assert args.derived.dp_size == choice.dp


def test_the_table_of_legal_combinations_decides(model: Model) -> None:
    assert is_legal(model.args, Choice(2, 1, 1, 1, 1, 1))
    assert not is_legal(model.args, Choice(2, 1, 1, 2, 1, 1, zero=2))
    assert not is_legal(model.args, Choice(1, 1, 1, 2, 1, 1, sequence=True))
    assert not is_legal(model.args, Choice(1, 1, 3, 1, 1, 1))


def test_ranked_by_time_and_all_fit(model: Model) -> None:
    on = device("h100-80gb")
    found = rank(model, on, 8, 16, 1024)
    assert [round(one.seconds, 4) for one in found] == sorted(round(one.seconds, 4) for one in found)
    assert all(one.fits and one.fullest.total < on.memory for one in found)
    assert 0.05 < found[0].mfu < 0.6
    small = rank(model, device("h100-80gb", memory_gib=6), 8, 16, 1024)
    assert 0 < len(small) < len(found) and small[0].seconds >= found[0].seconds


def test_thousands_of_devices(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    llama = str(CONFIGS / "models" / "llama-8b.yml")
    words = [llama, FILES[1], "--nodes", "512", "--set", "train_batch_size=4096", "--svg", str(tmp_path / "p.svg")]
    assert main([*words, "--vocab-size", "128256"]) == 0
    text = capsys.readouterr().out
    assert "8,030.3 million weights" in text and "512 x 8 h100-80gb" in text
    assert (tmp_path / "p.svg").read_text().startswith("<svg")


def test_from_the_command_line_without_torch() -> None:
    """`python deepy.py plan ...` prints a plan and loads nothing heavy."""
    watch = (
        "import sys, atexit, runpy;"
        "atexit.register(lambda: print(sorted({'torch', 'deepspeed', 'transformers'} & {*sys.modules})));"
        "sys.argv[0] = 'deepy.py'; runpy.run_path('deepy.py', run_name='__main__')"
    )
    words = ["plan", *FILES, "--gpu", "a100-40gb", "--json", "--top", "1"]
    done = subprocess.run([sys.executable, "-c", watch, *words], cwd=CONFIGS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert len(json.loads(plan)["layouts"]) == 1 and json.loads(plan)["parameters"] == 405334016


def test_a_measured_peak_makes_times_of_a_cpu() -> None:
    on = device("cpu", tflops=0.1)
    assert (on.tflops, on.efficiency) == (0.1, 1.0)
    buckets = [Memory(1e6, 1e6, 1e6, 1e6, 1e6, 1e6, buffers=4e9)]
    assert fits(buckets, on) and not fits(buckets, device("a100-40gb", memory_gib=4))
    assert set(names()) >= {"cpu", "h100-80gb"}
    with pytest.raises(SettingsError, match=r"'h100' is unknown.*h100-80gb"):
        device("h100")


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FILES, "--memory", "1"]) == 0
    assert "No legal layout fits into 1 GiB" in capsys.readouterr().out
    assert main([*FILES, "--per-node", "3"]) == 0
    assert "does not divide 3 ranks" in capsys.readouterr().out
