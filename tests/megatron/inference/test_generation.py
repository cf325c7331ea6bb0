"""Cached, recomputed and exported generation give the same text; files and keyboard behave as documented."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megatron.errors import CheckpointError, DataError, SettingsError
from megatron.inference.generation import continue_tokens
from megatron.inference.load import decode_windows, load_for_inference, load_model
from megatron.inference.samples import Sampler, sampler_from_args
from megatron.inference.sampling import Sampling
from megatron.inference.text_modes import generate, read_prompts, talk
from megatron.model.gpt_model import GPTModel
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from tests.megatron.export.tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("save"), tp=2)


def _args(checkpoint: Path, **changes: object) -> NeoXArgs:
    stored = json.loads((checkpoint / "state.json").read_text())["settings"]["texts"][0][1]
    text = json.dumps(json.loads(stored) | {"load": str(checkpoint.parent)} | changes)
    return arguments_from_texts([("tiny.yml", text)])


def _sampler(checkpoint: Path, **changes: object) -> Sampler:
    args = _args(checkpoint, **changes)
    return sampler_from_args(args, load_for_inference(args))


def _without_cache(model: GPTModel, prompt: list[int], count: int, vocab_size: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append(int(model(torch.tensor([text]))[0, -1, :vocab_size].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("length", [1, 5, 40])
def test_greedy_tokens_are_the_argmax_of_the_whole_text(checkpoint: Path, recompute: bool, length: int) -> None:
    model = load_model(_args(checkpoint))
    prompt = torch.randint(1, 300, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    found = continue_tokens(
        model,
        prompt,
        maximum_tokens=30,
        max_positions=96,
        vocab_size=301,
        sampling=Sampling(),
        recompute=recompute,
        return_logits=True,
    )
    assert found.tokens == _without_cache(model, prompt, 30, 301)
    assert found.logits is not None
    assert found.logits.shape == (30, 301)
    assert found.logits.argmax(-1).tolist() == found.tokens


def test_generation_ends_at_the_stop_token_and_at_the_last_position(checkpoint: Path) -> None:
    model = load_model(_args(checkpoint))
    common = {"max_positions": 96, "vocab_size": 301, "sampling": Sampling()}
    tokens = continue_tokens(model, [5, 6, 7], maximum_tokens=200, **common).tokens
    assert len(tokens) == 96 - 3
    place = next(n for n, token in enumerate(tokens) if token not in tokens[:n] and n > 0)
    stopped = continue_tokens(model, [5, 6, 7], maximum_tokens=200, stop_tokens={tokens[place]}, **common)
    assert (stopped.tokens, stopped.finished) == (tokens[:place], True)


def test_padding_rows_of_the_vocabulary_are_never_chosen(checkpoint: Path) -> None:
    model = load_model(_args(checkpoint))
    with torch.no_grad():
        model.head.final_linear.weight[301:] = 100 * model.head.final_linear.weight[:3].abs() + 100
    sampling = Sampling(temperature=5.0)
    tokens = continue_tokens(model, [5], maximum_tokens=40, max_positions=96, vocab_size=301, sampling=sampling).tokens
    assert max(tokens) < 301


def test_generate_windows_rule_the_cached_steps(checkpoint: Path) -> None:
    same = _sampler(checkpoint, generate_local_window_size=12)
    assert same.decode_attention is None
    wide = _sampler(checkpoint, generate_local_window_size=60)
    dense = _sampler(checkpoint, prefill_local_window_size=60)
    assert decode_windows(_args(checkpoint, generate_local_window_size=60)) == (60, 60, 60)
    # With a prompt of one token everything but that token is decided by the generate window.
    texts = [sampler.sample("t")["text"] for sampler in (same, wide, dense)]
    assert texts[0] != texts[1] == texts[2]


def test_a_seed_means_one_text_and_counts_are_honoured(checkpoint: Path) -> None:
    settings = {"temperature": 0.9, "top_k": 50, "top_p": 0.9, "maximum_tokens": 9}
    texts = [
        [record["text"] for record in _sampler(checkpoint, seed=seed, **settings).unconditional(3)]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1
    assert _sampler(checkpoint, **settings).sample("The")["length"] <= 9


def test_input_file_becomes_json_lines(checkpoint: Path, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "new" / "samples.jsonl"
    prompts.write_text("The value of\n\nx" + "y, " * 200 + "\nSee also.\n")
    args = _args(
        checkpoint,
        text_gen_type="input-file",
        sample_input_file=str(prompts),
        sample_output_file=str(output),
        maximum_tokens=6,
        return_logits=True,
    )
    generate(args)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["context"][:8] for record in records] == ["The valu", "xy, y, y", "See also"]
    assert set(records[0]) == {"context", "text", "length", "finished", "message", "duration_seconds", "logits"}
    assert len(records[0]["logits"]) == records[0]["length"] == 6
    assert (records[1]["length"], records[1]["text"]) == (0, "")
    assert "the model 96 positions" in records[1]["message"]


def test_talking(checkpoint: Path) -> None:
    sampler, target = _sampler(checkpoint, maximum_tokens=4), io.StringIO()
    talk(sampler, "\n", io.StringIO("The value\n\nstop\nnever read\n"), target)
    assert target.getvalue() == sampler.sample("The value")["text"] + "\n"
    target = io.StringIO()
    talk(sampler, "<end>", io.StringIO("The value\nof<end>\n"), target)
    assert target.getvalue() == sampler.sample("The value\nof")["text"] + "\n"


def test_mistakes_are_named_before_a_model_is_loaded(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unconditional, input-file, interactive"):
        generate(_args(checkpoint))
    with pytest.raises(SettingsError, match="sample_input_file"):
        generate(_args(checkpoint, text_gen_type="input-file"))
    with pytest.raises(DataError, match=r"gone\.txt"):
        read_prompts(str(tmp_path / "gone.txt"))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="2 lines, all of them empty"):
        read_prompts(str(tmp_path / "empty.txt"))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_for_inference(_args(checkpoint, load=str(tmp_path / "nowhere")))
    with pytest.raises(CheckpointError, match="no checkpoint of iteration 3"):
        load_model(_args(checkpoint, iteration=3))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        load_model(_args(checkpoint, tokenizer_type="CharLevelTokenizer", separator_token_ids=[1], separators=None))
    with pytest.raises(CheckpointError, match="tensors that this model does not have"):
        load_model(_args(checkpoint, num_layers=2))


@pytest.mark.slow
def test_the_command_starts_one_process_whatever_the_layout(checkpoint: Path, tmp_path: Path) -> None:
    args = _args(checkpoint, model_parallel_size=2, maximum_tokens=5)
    (tmp_path / "my_model.yml").write_text(args.texts[0][1])
    (tmp_path / "prompts.txt").write_text("The value of\nIf an exception\n")
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, str(root / "deepy.py"), "generate.py", "my_model.yml"]
    done = subprocess.run(
        [*command, "-i", "prompts.txt", "-o", "samples.jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    sampler = _sampler(checkpoint, maximum_tokens=5)
    assert [record["text"] for record in records] == [sampler.sample(record["context"])["text"] for record in records]
