"""Every file under configs/ loads in the composition that configs/README.md documents."""

from pathlib import Path

import pytest

from megatron.neox_arguments.load import load_arguments
from megatron.neox_arguments.purpose import check_for_training

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
DATA = CONFIGS / "data" / "example.yml"
MODELS = [*sorted((CONFIGS / "models").glob("*.yml")), CONFIGS / "local-cpu.yml"]
ATTENTION = sorted((CONFIGS / "attention").glob("*.yml"))
# window per layer -> the depths it is written for
TWELVE_LAYERS = {"sepllm-n64-h.yml", "sepllm-n64-ht.yml"}
MODES = {"full.yml": "full", "streaming-n64.yml": "streaming"}

COMPOSITIONS = [
    (model, attention)
    for model in MODELS
    for attention in ATTENTION
    if attention.name not in TWELVE_LAYERS or model.name in ("160m.yml", "local-cpu.yml")
]


@pytest.mark.parametrize(("model", "attention"), COMPOSITIONS, ids=lambda path: path.stem)
def test_compositions_load(model, attention):
    args = load_arguments([model, attention, DATA])
    check_for_training(args)
    derived = args.derived
    assert derived.attention_mode == MODES.get(attention.name, "sepllm")
    assert derived.separators == (tuple(".,?!;: \t\n") if derived.attention_mode == "sepllm" else None)
    dense = [layer for layer, window in enumerate(derived.windows) if window >= args.seq_length]
    last = args.num_layers - 1
    expected = {"full.yml": [*range(args.num_layers)], "sepllm-n64-h.yml": [0], "sepllm-n64-ht.yml": [0, last]}
    assert dense == expected.get(attention.name, [])
    assert {window for window in derived.windows if window < args.seq_length} <= {64}


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_batches_divide_on_usual_numbers_of_processes(model, processes):
    derived = load_arguments([model, CONFIGS / "attention" / "full.yml"], world_size=processes).derived
    if model.name != "local-cpu.yml":
        assert derived.train_batch_size == 1024


def test_every_file_is_part_of_a_composition():
    used = {path for pair in COMPOSITIONS for path in pair} | {DATA}
    assert used == set(CONFIGS.rglob("*.yml"))


def test_every_file_is_named_in_the_readme():
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    for path in MODELS:
        assert path.name in text
    for suffix in ("sepllm-n64.yml", "`-h`", "`-ht`", "streaming-n64.yml", "full.yml", "data/example.yml"):
        assert suffix in text
