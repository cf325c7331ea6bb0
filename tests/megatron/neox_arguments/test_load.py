"""From files to NeoXArgs: everything wrong is told at once, with file, line and the nearest known key."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron.errors import SettingsError
from megatron.neox_arguments.load import arguments_from_texts, load_arguments
from tests.megatron.neox_arguments.conftest import MINIMAL

REPOSITORY = Path(__file__).resolve().parents[3]


def test_files_and_overrides(tmp_path):
    (tmp_path / "model.yml").write_text(yaml.safe_dump(MINIMAL, sort_keys=False))
    (tmp_path / "run.yml").write_text("train-iters: 10\n")
    args = load_arguments([tmp_path / "model", tmp_path / "run.yml"], ["optimizer.params.lr=2e-3", "seed=7"])
    assert (args.train_iters, args.seed, args.derived.optimizer.lr) == (10, 7, 2e-3)
    assert args.source_of("train_iters") == f"{tmp_path / 'run.yml'}:1"
    assert args.source_of("seed") == "--set seed=7"
    assert args.source_of("norm") == "default"
    assert args.overrides == ("optimizer.params.lr=2e-3", "seed=7")
    again = arguments_from_texts(args.texts, args.overrides)
    assert again.to_flat_dict() == args.to_flat_dict() and again.derived == args.derived


def test_all_errors_at_once_in_the_order_of_the_files():
    model = """num_layers: 4
num-layers: 5
hiden_size: 64
num_attention_heads: "4"
mlp_type: lama
optimizer: {type: Adam, params: {lrr: 1e-3, betas: [0.9]}}
use_wandb: 1
seq_length: 2.5
"""
    run = """zero_optimization: {stage: 7}
deepscale: true
gradient_clipping: -1
hidden_dropout: 1.5
max_position_embeddings: null
seed: null
eval_tasks: piqa
warmup: .nan
"""
    with pytest.raises(SettingsError) as caught:
        arguments_from_texts([("model.yml", model), ("run.yml", run)], ["trian_iters=3"])
    assert caught.value.exit_code == 2
    expected = """
model.yml:2: 'num_layers' is given twice; it was first given at model.yml:1
model.yml:3: unknown key 'hiden_size'. Did you mean 'hidden_size'?
model.yml:4: num_attention_heads: expected whole number, at least 1; got the text '4'. Remove the quotes.
model.yml:5: mlp_type: expected one of regular, llama; got the text 'lama'. Did you mean 'llama'?
model.yml:6: optimizer.params.betas: expected list of numbers, at least 0, less than 1, 2 entries; got [0.9].
model.yml:6: unknown entry 'optimizer.params.lrr'. Did you mean 'lr'?
model.yml:7: use_wandb: expected true or false; got 1.
model.yml:8: seq_length: expected whole number, at least 1; got 2.5.
run.yml:1: zero_optimization.stage: expected whole number, at least 0, at most 3; got 7.
run.yml:2: deepscale: true is refused because it is DeepSpeed's first name; GPT-NeoX never read it. Remove the line.
run.yml:3: gradient_clipping: expected number, at least 0; got -1.
run.yml:4: hidden_dropout: expected number, at least 0, less than 1; got 1.5.
run.yml:5: max_position_embeddings is missing. Add max_position_embeddings: whole number, at least 1.
run.yml:6: seed: null says nothing here. Remove the line for the default (1234).
run.yml:7: eval_tasks: expected list of texts; got the text 'piqa'. Put it in brackets: [ ... ].
run.yml:8: warmup: expected number, at least 0, at most 1; got nan.
""".strip().splitlines()
    found = [line.strip() for line in str(caught.value).splitlines()]
    assert set(expected) <= set(found)
    assert any(
        line.startswith("--set trian_iters=3: unknown key 'trian_iters'. Did you mean 'train_iters'") for line in found
    )
    placed = [line for line in found if line.startswith(("model.yml", "run.yml"))]
    assert placed == sorted(placed, key=lambda line: (line.split(":")[0], int(line.split(":")[1])))


def test_a_single_error_is_a_single_line(complaint):
    assert complaint(hiden_size=3).startswith("test.yml:9: unknown key 'hiden_size'. Did you mean 'hidden_size'?")


def test_a_broken_file_does_not_hide_errors_in_another_nor_invent_missing_keys():
    with pytest.raises(SettingsError) as caught:
        arguments_from_texts([("model.yml", "num_layers: [4\nb: 2\n"), ("run.yml", "trian_iters: 3\n")])
    text = str(caught.value)
    assert "model.yml:2: not readable" in text and "'train_iters'" in text and "missing" not in text


def test_what_follows_from_an_error_is_not_reported(complaint):
    """A wrong hidden_size must not also complain that it does not divide by the heads."""
    text = complaint(hidden_size="many", num_attention_heads=7)
    assert "hidden_size: expected whole number" in text and "multiple" not in text


def test_a_missing_file_is_reported_with_its_neighbour(tmp_path):
    (tmp_path / "160m.yml").write_text("num_layers: 4\n")
    with pytest.raises(SettingsError, match=r"16m\.yml: no such file\. Did you mean '160m\.yml'"):
        load_arguments([tmp_path / "16m"])
    with pytest.raises(SettingsError, match="no settings file given"):
        load_arguments([])


def test_null_means_not_given_where_a_key_has_no_default(load):
    assert load(train_batch_size=4, gradient_accumulation_steps=None).derived.gradient_accumulation_steps == 2
    assert load(hostfile=None, load=None, moe_type=None).load is None


def test_required_keys_are_named_with_what_they_accept():
    with pytest.raises(SettingsError) as caught:
        arguments_from_texts([("empty.yml", "")])
    for key in ("num_layers", "hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings"):
        assert f"{key} is missing" in str(caught.value)


def test_reading_settings_imports_nothing_heavy(tmp_path):
    """So that a typo costs a second, not a queue slot."""
    (tmp_path / "a.yml").write_text("hiden_size: 4\n")
    code = f"""
import sys
from megatron.neox_arguments import cli, deepspeed_config, keys, purpose, reference_page, show
try:
    cli.arguments_from_command_line([{str(tmp_path / "a.yml")!r}])
except Exception as error:
    assert "hidden_size" in str(error)
print(*sorted(set(name.split(".")[0] for name in sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    modules = set(done.stdout.split())
    assert {"megatron", "pydantic", "yaml"} <= modules
    assert not modules & {"torch", "deepspeed", "transformers", "numpy", "tokenizers", "matplotlib"}


def test_a_rule_about_a_default_points_to_the_key_that_was_given(complaint):
    assert complaint(USE_BiPE=True, BiPE_seps=[5]) == (
        "test.yml:9: pos_emb: USE_BiPE works with rotary or alibi, not with learned."
    )


def test_a_difference_in_case_is_pointed_out(complaint):
    assert "Did you mean 'USE_BiPE'? Keys are case-sensitive." in complaint(use_bipe=True)
