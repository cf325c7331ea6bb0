"""What training needs beyond a valid configuration."""

import pytest

from megatron.errors import SettingsError
from megatron.neox_arguments.purpose import check_for_training


def test_training_needs_length_data_and_tokenizer(load):
    with pytest.raises(SettingsError) as caught:
        check_for_training(load())
    for key in ("train_iters", "data_path", "vocab_file"):
        assert f"{key}: " in str(caught.value)
    check_for_training(load(train_iters=1, data_path="a", vocab_file="t.json"))
    lists = {f"{kind}_data_paths": ["a"] for kind in ("train", "valid", "test")}
    check_for_training(load(train_iters=1, tokenizer_type="CharLevelTokenizer", **lists))
