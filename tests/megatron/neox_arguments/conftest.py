"""Settings of a small valid model, to be changed key by key."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts

MINIMAL: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 128,
    "max_position_embeddings": 128,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3}},
    "train_micro_batch_size_per_gpu": 2,
    "separator_token_ids": [15, 13],
}


@pytest.fixture
def load() -> Callable[..., NeoXArgs]:
    """load(key=value, ..., processes=None): the minimal settings with these changes; `...` leaves a key out."""

    def loaded(processes: int | None = None, **changes: Any) -> NeoXArgs:
        settings = {key: value for key, value in {**MINIMAL, **changes}.items() if value is not ...}
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
        return arguments_from_texts([("test.yml", text)], world_size=processes)

    return loaded


@pytest.fixture
def complaint(load: Callable[..., NeoXArgs]) -> Callable[..., str]:
    """complaint(key=value, ...): the text of the error that these changes cause."""

    def text(**changes: Any) -> str:
        with pytest.raises(SettingsError) as caught:
            load(**changes)
        return str(caught.value)

    return text
