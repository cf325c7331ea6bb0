"""Single files in the style of SepLLM's and SegLLM's own configurations load as they are, through deepy.py --check."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import load_arguments
from megatron.neox_arguments.show import notes

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "tests" / "data" / "original_style"


def load(name: str) -> NeoXArgs:
    return load_arguments([FOLDER / f"{name}.yml"], world_size=8)


def test_all_files_are_checked_here():
    assert sorted(path.stem for path in FOLDER.glob("*.yml")) == sorted(MEANING)


MEANING = {
    "sepllm-n64ht": ("sepllm", (2048, *(64,) * 10, 2048), "auto", "fp16"),
    "segllm-n64": ("sepllm", (64,) * 12, "masked", "fp16"),
    "streaming-n64": ("streaming", (64,) * 12, "auto", "fp16"),
    "vanilla": ("full", (2048,) * 12, "auto", "fp16"),
    "pythia-1.4b-block": ("full", (2048,) * 24, "auto", "bf16"),
}


@pytest.mark.parametrize("name", MEANING)
def test_what_they_mean(name):
    derived = load(name).derived
    assert (derived.attention_mode, derived.windows, derived.attention_path, derived.precision) == MEANING[name]
    assert derived.generate_windows == derived.windows
    assert derived.train_batch_size == 1024
    if derived.attention_mode == "sepllm":
        assert derived.separator_token_ids == (15, 13, 32, 2, 28, 27, 209, 186, 187)


def test_details_that_only_one_file_has():
    assert load("sepllm-n64ht").derived.bipe_separators == (15, 13, 32, 2, 28, 27, 209, 186, 187)
    block = load("pythia-1.4b-block")
    assert block.derived.softmax == "sa" and block.SA_Denominator_Bias == 1e-7 and block.derived.optimizer.lr == 2e-4
    said = "\n".join(notes(load("segllm-n64")))
    assert "print_ratio_intervals" in said and "segllm-n64.yml" in said


def test_check_prints_what_results():
    done = subprocess.run(
        [sys.executable, "deepy.py", "train.py", "tests/data/original_style/sepllm-n64ht.yml", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "RECOMPILE_SEP_ATTN_KERNEL" in done.stdout and "train.py would start on this host" in done.stdout


def test_a_precision_is_switched_by_dropping_the_block():
    file = FOLDER / "vanilla.yml"
    with pytest.raises(SettingsError, match="--set fp16=null drops the block"):
        load_arguments([file], ["precision=fp32"])
    with pytest.raises(SettingsError, match="or drop the block: --set fp16=null"):
        load_arguments([file], ["fp16.enabled=false"])
    assert load_arguments([file], ["precision=bfloat16", "fp16=null"]).derived.precision == "bf16"
