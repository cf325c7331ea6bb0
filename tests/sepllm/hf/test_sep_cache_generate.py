"""The folder that model.generate loads generation code from."""

from pathlib import Path

import pytest
import torch

from sepllm import SepConfig, enable
from tests.sepllm.cache.tiny_models import SEPARATORS, tiny_model, tokens

FOLDER = Path(__file__).resolve().parents[3] / "sepllm" / "hf" / "sep_cache_generate"


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 2])
def test_generates_what_the_mask_rule_generates(
    beams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    model, ids = tiny_model("llama"), tokens(1, 30)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "num_beams": beams}
    found = model.generate(
        ids,
        custom_generate=str(FOLDER),
        trust_remote_code=True,
        init_cache_size=2,
        sep_cache_size=3,
        local_size=6,
        separator_token_ids=list(SEPARATORS),
        **settings,
    )
    config = SepConfig(SEPARATORS, init_tokens=2, window=6, max_separators=3)
    with enable(model, config):
        assert torch.equal(found, model.generate(ids, **settings))
