"""A run small enough for a test: words as text, one number per character, a model of a few thousand weights."""

import random
from pathlib import Path
from typing import Any

import yaml

from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.tokenizer.tokenizer import build_tokenizer

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wizards", "brew", "potions"]


def write_tiny_data(folder: Path, documents: int = 60, seed: int = 0) -> Path:
    """An idxmap data set of short made-up sentences, tokenised by character; returns its prefix."""
    draw = random.Random(seed)
    tokenizer = build_tokenizer("CharLevelTokenizer", None)
    prefix = folder / "tiny_text_document"
    folder.mkdir(parents=True, exist_ok=True)
    with IndexedDatasetWriter(prefix, vocab_size=tokenizer.vocab_size) as writer:
        for _ in range(documents):
            sentences = [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) + draw.choice(".?!") for _ in range(8)]
            writer.add_document([*tokenizer.tokenize(" ".join(sentences)), tokenizer.eod])
    return prefix


# Of a run of two ranks that is launched but reads no data: scripts of the tests take the place of train.py.
LAUNCHED: dict[str, Any] = {
    "pipe_parallel_size": 2,
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 64,
    "max_position_embeddings": 64,
    "train_iters": 10,
    "train_micro_batch_size_per_gpu": 2,
    "optimizer": {"type": "Adam", "params": {"lr": 0.001}},
    "separator_token_ids": [1, 2],
    "data_path": "somewhere",
}


def tiny_settings(data: Path, **changes: Any) -> dict[str, Any]:
    """Flat settings of a 4-layer model of width 32, fp32, batch 4, SepLLM with a window per layer."""
    settings: dict[str, Any] = {
        "num_layers": 4,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "seq_length": 64,
        "max_position_embeddings": 64,
        "pos_emb": "rotary",
        "rotary_pct": 0.25,
        "gpt_j_residual": True,
        "no_weight_tying": True,
        "init_method": "small_init",
        "output_layer_init_method": "wang_init",
        "tokenizer_type": "CharLevelTokenizer",
        "make_vocab_size_divisible_by": 64,
        "data_path": str(data),
        "split": "8,1,1",
        "train_batch_size": 4,
        "train_micro_batch_size_per_gpu": 1,
        "train_iters": 20,
        "eval_interval": 1000,
        "eval_iters": 2,
        "log_interval": 1,
        # eps: the bias of unrotated key dimensions shifts all scores of a query alike, so its gradient is rounding
        # noise around 0 (1e-11); Adam with the usual 1e-8 would turn that noise into visible, layout-dependent steps.
        "optimizer": {"type": "Adam", "params": {"lr": 0.005, "betas": [0.9, 0.95], "eps": 1e-6}},
        "min_lr": 0.0005,
        "warmup": 0.2,
        "lr_decay_style": "cosine",
        "gradient_clipping": 0.5,
        "weight_decay": 0.1,
        "precision": "fp32",
        "separators": ".?! ",
        "init_tok_max_idx": 2,
        "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True,
        "prefill_loc_win_size_list": [64, 8, 12, 8],
        "seed": 7,
    }
    settings.update(changes)
    return {key: value for key, value in settings.items() if value is not None}


def write_settings(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path
