"""Every file under configs/ loads: in all compositions that make sense, and as the sample configurations of SepLLM.

What each of the 27 samples means is read from its name here; configs/README.md lists files for it. The two must agree.
"""

import json
import re
from pathlib import Path

import pytest

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import load_arguments
from megatron.neox_arguments.purpose import check_for_training
from tests.helpers.shared import shared_folder

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
README = (CONFIGS / "README.md").read_text(encoding="utf-8")
DATA = CONFIGS / "data" / "example.yml"
MODELS = [*sorted((CONFIGS / "models").glob("*.yml")), *sorted(CONFIGS.glob("*.yml"))]
ATTENTION = sorted((CONFIGS / "attention").glob("*.yml"))
LAYERS = {model: load_arguments([model, CONFIGS / "attention" / "full.yml"]).num_layers for model in MODELS}


def depth_of(attention: Path) -> int | None:
    """Layers that a file with one number per layer is written for."""
    if "fixllm" in attention.stem:
        found = re.search(r"(\d+)layers", attention.stem)
        return int(found[1]) if found else 12
    return None


# Every attention file with some models of different depths, every model with two attention files.
COMPOSITIONS = [
    (model, attention)
    for model in MODELS
    for attention in ATTENTION
    if depth_of(attention) in (None, LAYERS[model])
    and (model.stem in ("70m", "160m", "1.4b", "llama-8b", "local-cpu") or attention.stem in ("full", "sepllm-n64-ht"))
]


def dense_layers(kind: str, layers: int) -> list[int]:
    """H: the first layer, T: the last, M: the sixth."""
    return sorted({{"h": 0, "t": layers - 1, "m": 5}[letter] for letter in kind.lower()})


@pytest.mark.parametrize(("model", "attention"), COMPOSITIONS, ids=lambda path: path.stem)
def test_compositions_load(model, attention):
    args = load_arguments([model, attention, DATA])
    check_for_training(args)
    derived, name = args.derived, attention.stem
    modes = {"full": "full", "streaming": "streaming", "fixllm": "fixed", "self": "full", "sepllm": "sepllm"}
    assert derived.attention_mode == modes[name.split("-")[0]]
    softmax = {"self-adjusting": "sa", "self-adjusting-no-denominator": "no_denominator"}
    assert derived.softmax == softmax.get(name, "softmax")
    assert derived.separators == (tuple(".,?!;: \t\n") if derived.attention_mode == "sepllm" else None)
    dense = [layer for layer, window in enumerate(derived.windows) if window >= args.seq_length]
    kind = re.search(r"-([hmt]+)\b", name)
    if name.startswith("self") or name == "full":
        assert dense == [*range(args.num_layers)]
    elif (window := int(name.split("-n")[1].split("-")[0])) < args.seq_length:
        assert dense == (dense_layers(kind[1], args.num_layers) if kind and name.startswith("sepllm") else [])
        assert {w for layer, w in enumerate(derived.windows) if layer not in dense} == {window}
    if name.startswith("fixllm"):
        assert derived.intervals == (5,) * args.num_layers


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("processes", [1, 2, 8, 32])
def test_batches_divide_on_usual_numbers_of_processes(model, processes):
    tensor = load_arguments([model, CONFIGS / "attention" / "full.yml"]).model_parallel_size
    total = load_arguments([model, CONFIGS / "attention" / "full.yml"], world_size=max(processes, tensor)).derived
    wanted = {"llama-1b": 512, "llama-8b": 256, "local-cpu": 4 * processes, "local-cpu-llama": 4 * processes}
    assert total.train_batch_size == wanted.get(model.stem, 1024)


@pytest.mark.parametrize("folder", ["positions", "paths", "data", "bases"])
def test_the_other_files_load_with_a_model(folder):
    for path in sorted((CONFIGS / folder).glob("*.yml")):
        model = CONFIGS / "local-cpu.yml"
        beside = {"bases": [], "data": [model]}.get(folder, [model, DATA])
        args = [*beside, CONFIGS / "attention" / "sepllm-n64.yml", path]
        if folder == "bases":
            assert any(f"../bases/{path.name}" in model.read_text() for model in MODELS)
        else:
            check_for_training(load_arguments(args))


def test_every_file_is_named_in_the_readme():
    words = set(re.findall(r"[\w.-]+", README)) | {f"sepllm{suffix}" for suffix in re.findall(r"`(-n\d+)`", README)}
    kinds = set(re.findall(r"`-(h|ht|hmt)`", README))
    for path in CONFIGS.rglob("*.yml"):
        if path.parent.name == "bases":
            continue
        name = path.stem.removesuffix(f"-{depth_of(path)}layers") if path.parent.name == "attention" else path.stem
        family, _, kind = name.rpartition("-")
        assert {name, path.name} & words or (family in words and kind in kinds) or name.startswith("fixllm"), (
            path.relative_to(CONFIGS)
        )


def test_every_file_begins_with_what_it_is_for():
    for path in CONFIGS.rglob("*.yml"):
        assert path.read_text(encoding="utf-8").startswith("# "), path


SAMPLES = {
    name: [CONFIGS / f"{file}.yml" for file in re.findall(r"`([^`]+)`", files)]
    for name, files in re.findall(r"^\| `([^`]+)` \| (`[^|]+`) \|$", README, re.M)
}


def load_sample(name: str) -> NeoXArgs:
    return load_arguments([*SAMPLES[name], DATA], world_size=8)


def test_all_samples_are_there_and_their_names_are_read():
    assert len(SAMPLES) == 27
    groups = {"1.4b": 3, "160m": 23, "n64": 17, "n128": 5, "n256": 2, "BiPE": 4, "NOkernel": 12, "vanilla": 2}
    assert {word: sum(word in name for name in SAMPLES) for word in groups} == groups


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_what_its_name_says(name):
    args = load_sample(name)
    derived, size = args.derived, "1.4b" if "1.4b" in name else "160m"
    shape = (args.num_layers, args.hidden_size, args.num_attention_heads, args.optimizer.params.lr, args.min_lr)
    assert shape == {"160m": (12, 768, 12, 6e-4, 6e-5), "1.4b": (24, 2048, 32, 2e-4, 2e-5)}[size]
    assert (args.seq_length, args.rotary_pct, args.train_iters, args.lr_decay_iters) == (2048, 0.25, 143000, 143000)
    assert (derived.train_batch_size, args.warmup, args.lr_decay_style) == (1024, 0.01, "cosine")
    assert (derived.optimizer.betas, args.weight_decay, args.gradient_clipping) == ((0.9, 0.95), 0.1, 1.0)
    assert args.gpt_j_residual and args.no_weight_tying and args.bias_gelu_fusion and args.checkpoint_activations
    assert (args.init_method, args.output_layer_init_method) == ("small_init", "wang_init")

    if "vanilla" in name:
        assert derived.attention_mode == "full" and derived.windows == (2048,) * args.num_layers
        return
    assert derived.init_tokens == 3
    nearest, kind = re.search(r"n(\d+)(HMT|HT|H|)", "n64HT" if name == "debug" else name).groups()
    dense = dense_layers(kind, args.num_layers)
    assert list(derived.windows) == [2048 if i in dense else int(nearest) for i in range(args.num_layers)]
    assert derived.attention_mode == ("streaming" if "streaming" in name else "sepllm")
    assert args.pos_emb == ("alibi" if "alibi" in name else "rotary")
    assert args.USE_BiPE == ("BiPE" in name)
    assert derived.bipe_separators == ("separators" if args.USE_BiPE else None)
    paths = {"NOkernel": "masked", "recompile": "flex", "debug": "flex"}
    assert derived.attention_path == next((path for word, path in paths.items() if word in name), "auto")


RECORDED = """
num_layers hidden_size num_attention_heads seq_length max_position_embeddings pos_emb rotary_pct no_weight_tying
bias_gelu_fusion init_method output_layer_init_method gpt_j_residual lr_decay_style lr_decay_iters min_lr warmup
train_iters eval_iters eval_interval weight_decay gradient_clipping checkpoint_activations checkpoint_num_layers
checkpoint_factor extra_save_iters log_interval attention_dropout hidden_dropout pipe_parallel_size launcher
USE_ORIGINAL_FULL_ATTEN streamingLLM init_tok_max_idx
"""


def test_the_samples_have_the_values_of_the_originals():
    """Distinct values of each key over the 27 samples, and how many samples give it, as recorded from the originals."""
    facts = json.loads((shared_folder("reference") / "neox_config_keys.json").read_text())["keys"]
    recorded = {fact["key"]: fact for fact in facts if fact.get("sample_values")}
    ours = [load_sample(name) for name in SAMPLES]
    for key in RECORDED.split():
        found = {repr(_plain(getattr(args, key))) for args in ours} - {"None"}
        assert found == {repr(_plain(value)) for value in recorded[key]["sample_values"]}, key
    windows = [args.derived.windows for args in ours if args.derived.attention_mode != "full"]
    one_size = [sizes for sizes in windows if len(set(sizes)) == 1]
    assert len(one_size) == recorded["prefill_local_window_size"]["sample_config_count"]
    assert {sizes[0] for sizes in one_size} == set(recorded["prefill_local_window_size"]["sample_values"])
    by_layer = [list(sizes) for sizes in windows if len(set(sizes)) > 1]
    lists = recorded["prefill_loc_win_size_list"]
    assert len(by_layer) == lists["sample_config_count"]
    assert sorted(map(repr, set(map(tuple, by_layer)))) == sorted(
        repr(tuple(sizes)) for sizes in lists["sample_values"]
    )


def _plain(value: object) -> object:
    """Numbers that are equal look equal: 0 and 0.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_the_example_of_the_readme_loads(tmp_path):
    """The block that stands on two files, saved beside configs/."""
    block = re.search(r"```yaml\n(.*?)```", README, re.S)
    assert block is not None
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "mine.yml").write_text(block[1])
    args = load_arguments([tmp_path / "mine.yml"])
    assert (args.num_layers, args.train_iters, args.optimizer.params.lr, args.derived.windows[0]) == (
        12,
        20000,
        3e-4,
        128,
    )
