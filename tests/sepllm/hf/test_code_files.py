"""A folder with our code files stands alone: stock transformers loads it in a process that cannot import us."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sepllm.hf.code_files import auto_map, write_code_files
from tests.sepllm.hf.tiny_model import tiny_model, tokens

PROGRAM = """
import json, sys
for package in ("sepllm", "megatron"):
    sys.modules[package] = None  # importing it fails, also where it is installed
import torch
from transformers import AutoModelForCausalLM
folder, again = sys.argv[1:3]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
ids = torch.tensor(json.load(open(folder + "/ids.json")))
logits = model(ids).logits
model.save_pretrained(again)
reloaded = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True).eval()
assert torch.equal(reloaded(ids).logits, logits)
rule = {"separator_token_ids": [5], "init_tokens": 1, "window": 2}
changed = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, sepllm=rule).eval()
assert (changed(ids).logits - logits).abs().max() > 0.1
assert not [name for name, module in sys.modules.items() if module and name.split(".")[0] in ("sepllm", "megatron")]
torch.save(logits.detach(), again + "/logits.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_loads_saves_and_reloads_without_our_packages(tmp_path: Path, tied: bool) -> None:
    model, ids = tiny_model(tie_word_embeddings=tied), tokens(2, 30)
    folder = tmp_path / "exported"
    folder.mkdir()
    write_code_files(folder)
    config = model.config.to_dict() | {
        "auto_map": auto_map("sepllm_gpt_neox"),
        "architectures": ["SepLLMGPTNeoXForCausalLM"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ids.json").write_text(json.dumps(ids.tolist()))
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if tied:
        del weights["embed_out.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-I", "-c", PROGRAM, str(folder), str(tmp_path / "again")]
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    loaded = torch.load(tmp_path / "again" / "logits.pt", weights_only=True)
    assert torch.allclose(loaded, model(ids).logits, atol=1e-6)
