"""Every file of configs/training_free loads and means what its name says; keys are read or refused, never lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig

import sepllm
from sepllm import SepConfig
from sepllm.errors import ConfigError
from sepllm.hf.training_free import config_from_keys, load_training_free

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "training_free"
LLAMA = (13, 11, 30, 0, 26, 25, 198, 220, 128000)
PYTHIA = (15, 13, 32, 2, 28, 27, 209, 186, 187)
EXPECTED = {
    "llama3_sepllm_a3_n256": SepConfig(LLAMA, 3, 256),
    "llama3_sepllm_a3_n256HT": SepConfig(LLAMA, 3, [8192, *[256] * 30, 8192]),
    "llama3_streamingllm_a3_n256": SepConfig(mode="streaming", init_tokens=3, window=256),
    "llama3_streamingllm_a3_n380": SepConfig(mode="streaming", init_tokens=3, window=380),
    "llama3_streamingllm_a3_n448": SepConfig(mode="streaming", init_tokens=3, window=448),
    "llama3_fixllm_a3_n256_int5": SepConfig(mode="fixed", init_tokens=3, window=256, interval=[5] * 32),
    "llama3_full": SepConfig(mode="full", init_tokens=0),
    "pythia_sepllm_a3_n256": SepConfig(PYTHIA, 3, 256),
}


def test_every_file_means_what_its_name_says() -> None:
    assert {path.stem: load_training_free(path) for path in FOLDER.glob("*.yml")} == EXPECTED
    listed = (FOLDER / "README.md").read_text()
    assert all(name.rsplit("_n", 1)[0] in listed for name in EXPECTED)


def test_a_model_takes_a_file() -> None:
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = AutoModelForCausalLM.from_config(GPTNeoXConfig(vocab_size=300, **settings)).eval()
    ids = torch.randint(0, 300, (1, 400))
    with torch.no_grad():
        dense = model(ids).logits
        with sepllm.enable(model, FOLDER / "pythia_sepllm_a3_n256.yml") as handle:
            assert handle.config.separators == PYTHIA
            assert not torch.equal(model(ids).logits, dense)
    with pytest.raises(ConfigError, match="Layer_num is 32, but the model has 2 layers"):
        sepllm.enable(model, str(FOLDER / "llama3_sepllm_a3_n256.yml"))


def test_older_names_and_hyphens() -> None:
    older: dict[str, Any] = {
        "special-tokens-id": [4, 5],
        "att_sink_max_idx": 3,
        "USE_DYNAMIC_PREFILL_WINDOW_SIZE": True,
        "prefill_win_size_list": [7, 8],
        "USE_DYNAMIC_DECODE_WINDOW_SIZE": True,
        "decode_win_size_list": [7, 8],
        "USE_FLEX": False,
        "floating_window": True,
        "print_KV_intervals": 4000,
    }
    assert config_from_keys(older) == SepConfig([4, 5], 4, [7, 8])
    assert config_from_keys({"separator_token_ids": [4]}) == SepConfig([4], 3, 256)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"seperator_token_ids": [4]}, "'separator_token_ids'"),
        ({"separator_token_ids": [4], "special_tokens_id": [5]}, "both given"),
        ({"separator_token_ids": [4], "USE_BiPE": True}, "trained into a model"),
        ({"separator_token_ids": [4], "EXCLUDE_DIAGONAL": False}, "counts the query itself"),
        ({"separator_token_ids": [4], "prefill_local_window_size": 8, "generate_local_window_size": 9}, "differs"),
        ({"USE_FIXED_SEP_INTERVALs": True}, "fixed_sep_intervals_list"),
        ({"separator_token_ids": [4], "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True}, "prefill_loc_win_size_list"),
        ({}, "needs separators"),
    ],
)
def test_keys_that_cannot_be_meant_are_refused(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config_from_keys(keys)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yml"):
        load_training_free(tmp_path / "nowhere.yml")
    for text in ("[1, 2]", "a: [", "seperators: 3"):
        (tmp_path / "bad.yml").write_text(text)
        with pytest.raises(ConfigError, match=r"bad\.yml"):
            load_training_free(tmp_path / "bad.yml")
