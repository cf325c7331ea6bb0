"""A small random model as a checkpoint on disk, in the layout of one or several tensor ranks."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron.checkpointing.durable import write_json
from megatron.checkpointing.folders import STATE
from megatron.checkpointing.manifest import describe_file, write_manifest
from megatron.export.verify import sample_text
from megatron.inference.load import inference_config
from megatron.model.gpt_model import GPTModel
from megatron.neox_arguments.load import arguments_from_texts
from megatron.tokenizer.tokenizer import build_tokenizer, padded_vocab_size
from tests.megatron.checkpointing.simulated_ranks import write_simulated

SETTINGS = {
    "num_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "seq_length": 96,
    "max_position_embeddings": 96,
    "pos_emb": "rotary",
    "rotary_pct": 0.5,
    "gpt_j_residual": True,
    "no_weight_tying": True,
    "make_vocab_size_divisible_by": 16,
    "train_micro_batch_size_per_gpu": 2,
    "train_iters": 4,
    "checkpoint_factor": 2,
    "lr": 0.001,
    "separators": ".,\n",
    "init_tok_max_idx": 2,
    "prefill_local_window_size": 12,
    "tokenizer_type": "HFTokenizer",
}


def write_tokenizer(path: Path) -> Path:
    """A byte-level BPE of 300 tokens in which the separators stand alone."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=301,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([sample_text()], trainer)
    backend.save(str(path))
    return path


def write_checkpoint(
    folder: Path, changes: dict | None = None, *, tp: int = 1, pp: int = 1, iteration: int = 7
) -> Path:
    """`folder/global_stepN` with random weights (the same for every layout); returns it. YAML is JSON here."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_file = folder / "tokenizer.json"
    if not vocab_file.exists():
        write_tokenizer(vocab_file)
    text = json.dumps(SETTINGS | {"vocab_file": str(vocab_file), "save": str(folder)} | (changes or {}))
    args = arguments_from_texts([("tiny.yml", text)], world_size=tp)
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    padded = padded_vocab_size(tokenizer.vocab_size, args.make_vocab_size_divisible_by, tp)
    model = GPTModel(inference_config(args, padded, tokenizer))
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for parameter in model.parameters():
        value = torch.randn(parameter.shape, generator=generator) * 0.3
        tensors[parameter.shard.name] = (value, parameter.shard.dim)
    step = write_simulated(folder, tensors, tp=tp, dp=1, pp=pp, iteration=iteration)
    state = {
        "iteration": iteration,
        "padded_vocab_size": padded,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "settings": {"texts": [["tiny.yml", text]], "overrides": [], "world_size": tp},
    }
    write_json(step / STATE, state)
    (step / "manifest.json").unlink()
    write_manifest(step, {path.name: describe_file(path) for path in step.iterdir()})
    return step
