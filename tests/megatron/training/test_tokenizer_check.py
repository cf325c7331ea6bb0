"""A resume with another vocabulary than that of the checkpoint is refused before anything is loaded."""

from types import SimpleNamespace
from typing import Any

import pytest

from megatron.errors import CheckpointError
from megatron.training.resume import _check_tokenizer


def test_the_vocabulary_of_the_checkpoint_is_asked_for() -> None:
    reader: Any = SimpleNamespace(folder="save/global_step5", tokenizer_fingerprint="a" * 64)
    run: Any = SimpleNamespace(tokenizer=SimpleNamespace(fingerprint="a" * 64))
    _check_tokenizer(reader, run)
    run.tokenizer.fingerprint = "b" * 64
    with pytest.raises(CheckpointError, match=r"global_step5 was trained with another tokenizer.*aaaa.*now bbbb"):
        _check_tokenizer(reader, run)
