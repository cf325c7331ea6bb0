"""The recipes of docs/inference.md, run from top to bottom as a reader would, on a tiny model in a folder."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "inference.md").read_text("utf-8")
BLOCKS = re.findall(r"```python tests/docs/test_inference.py\n(.*?)```", PAGE, re.S)


def test_the_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {character: place for place, character in enumerate("\n .,?!;:abcdefghijklmnopqrstuvwxyzO")}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=" ", unk_token=" ").save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), bos_token_id=None, eos_token_id=None, **sizes)).save_pretrained(
        tmp_path
    )
    scope: dict[str, Any] = {"MODEL": str(tmp_path)}
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        exec(compile(block, "docs/inference.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert "attention\n" in printed and "tokens a layer" in printed
    assert scope["cache"].get_seq_length() == 27 + 40 - 1
