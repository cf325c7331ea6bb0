"""Flipped bits, cut files and zeroed pages at 64 seeded places, in every kind of file of a checkpoint."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron.checkpointing.reader import find_checkpoint
from megatron.errors import CheckpointError
from tests.faults.small_saves import loaded_step, save_small

PLACES = 64


def flip(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def cut(content: bytearray, draw: random.Random) -> None:
    del content[len(content) - draw.randint(1, min(100, len(content))) :]


def zero(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(content))
    page = content[start : start + 512]
    content[start : start + 512] = bytes(255 - value if not any(page) else 0 for value in page)


def test_every_damage_is_found_and_the_one_before_is_loaded(tmp_path: Path, score: Callable[..., None]) -> None:
    save_small(tmp_path, 1)
    newest = save_small(tmp_path, 2)
    files = sorted(newest.iterdir())
    assert len(files) == 5
    held = 0
    draw = random.Random(0)
    for place in range(PLACES):
        victim, damage = files[place % len(files)], (flip, cut, zero)[place % 3]
        whole = victim.read_bytes()
        content = bytearray(whole)
        damage(content, draw)
        victim.write_bytes(content)
        said: list[str] = []
        found = find_checkpoint(tmp_path, say=said.append).name
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(tmp_path, iteration=2)
        held += found == "global_step1" and victim.name in said[0] and victim.name in str(caught.value)
        victim.write_bytes(whole)
    assert loaded_step(tmp_path) == 2
    score("S4", held, PLACES, naive(files))


def naive(files: list[Path]) -> str:
    """safetensors alone loads a flipped bit without a word."""
    [weights] = [path for path in files if path.name.startswith("weights")]
    before = load_file(weights)
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    damaged = weights.with_name("naive")
    damaged.write_bytes(content)
    after = load_file(damaged)
    damaged.unlink()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    return "without hashes a flipped bit loads silently"
