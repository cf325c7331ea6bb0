"""One set of exported folders under several versions of transformers: same logits, same greedy tokens.

python tests/transformers_matrix.py 4.56.2 4.57.6 5.0.0

Each version gets an environment of its own under build/, on top of the packages of this one (torch is not installed
again). The folders are loaded there without any package of ours.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
VERSIONS = ("4.56.2", "4.57.6", "5.0.0")
MODELS = {
    "sepllm": ("sepllm_gpt_neox", {}),
    "windows, tied": (
        "auto",
        {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True, "prefill_loc_win_size_list": [96, 8, 20]},
    ),
    "bipe alibi": ("auto", {"USE_BiPE": True, "BiPE_seps": [12, 14], "pos_emb": "alibi", "no_weight_tying": False}),
    "llama, self-adjusting": (
        "sepllm_llama",
        {
            "norm": "rmsnorm",
            "mlp_type": "llama",
            "activation": "silu",
            "num_kv_heads": 2,
            "gpt_j_residual": False,
            "USE_SA_SOFTMAX": True,
            "USE_SEP_ATTN_KERNEL_ACCELERATOR": False,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        },
    ),
    "stock gpt_neox": ("neox", {"USE_ORIGINAL_FULL_ATTEN": True}),
    "stock llama": (
        "llama",
        {
            "USE_ORIGINAL_FULL_ATTEN": True,
            "norm": "rmsnorm",
            "mlp_type": "llama",
            "activation": "silu",
            "gpt_j_residual": False,
            "rotary_pct": 1.0,
            "use_bias_in_attn_linear": False,
            "num_kv_heads": 2,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        },
    ),
}
# Runs in the other environment: prints, per folder, a sum and the last logits in fp32, and greedy tokens of two rows.
LOADER = """
import json, sys
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
transformers.logging.set_verbosity_error()
found = {"transformers": transformers.__version__}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    texts = ["The quick brown fox, however, jumped. " * 2, "A dog slept; it dreamt, slowly, of rain."]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
        tokens = model.generate(**inputs, max_new_tokens=16, do_sample=False, pad_token_id=0)
        beams = model.generate(**inputs, max_new_tokens=8, num_beams=3, do_sample=False, pad_token_id=0)
    found[folder.name] = {"logits": logits.double().tolist(), "tokens": tokens.tolist(), "beams": beams.tolist()}
assert not [name for name in sys.modules if name.split(".")[0] in ("sepllm", "megatron")]
print("RESULT" + json.dumps(found))
"""


def main() -> None:
    """Write the folders, load them under each version, print one line each; exit 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"of transformers; default {' '.join(VERSIONS)}")
    versions = parser.parse_args().versions
    with tempfile.TemporaryDirectory() as scratch:
        folders = write_folders(Path(scratch))
        expected = load(Path(sys.executable), folders)
        print(f"transformers {expected['transformers']}: reference, {len(expected) - 1} folders")
        wrong = [version for version in versions if not _same(expected, load(environment(version), folders))]
    sys.exit(f"differs under transformers {', '.join(wrong)}" if wrong else 0)


def write_folders(scratch: Path) -> Path:
    """An exported folder for each of MODELS."""
    sys.path.insert(0, str(REPOSITORY))
    from megatron.export.export import export_checkpoint, open_source
    from tests.megatron.export.tiny_checkpoint import write_checkpoint

    for name, (architecture, changes) in MODELS.items():
        slug = "".join(letter if letter.isalnum() else "-" for letter in name)
        write_checkpoint(scratch / "saves" / slug, changes)
        (scratch / "folders").mkdir(exist_ok=True)
        export_checkpoint(open_source(scratch / "saves" / slug), scratch / "folders" / slug, architecture=architecture)
    return scratch / "folders"


def environment(version: str) -> Path:
    """The python of an environment with this transformers, made on first use."""
    folder = REPOSITORY / "build" / "transformers" / version
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"transformers=={version}", "jinja2"], check=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        (packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (folder / "ready").touch()
    return python


def load(python: Path, folders: Path) -> dict:
    """What LOADER finds, in a process that cannot import this repository."""
    with tempfile.TemporaryDirectory() as home:
        surroundings = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HF_HOME": home, "OMP_NUM_THREADS": "1"}
        command = [python, "-I", "-c", LOADER, folders]
        done = subprocess.run(command, env=surroundings, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.split("RESULT")[1])


def _same(expected: dict, found: dict) -> bool:
    """Prints the greatest difference of logits, and whether all tokens are equal."""
    names = [name for name in expected if name != "transformers"]
    pairs = [
        (left, right)
        for name in names
        for rows in zip(expected[name]["logits"], found[name]["logits"], strict=True)
        for left, right in zip(*rows, strict=True)
    ]
    greatest = max(abs(left - right) for left, right in pairs)
    tokens = all(expected[name][kind] == found[name][kind] for name in names for kind in ("tokens", "beams"))
    print(f"transformers {found['transformers']}: logits differ by {greatest:.2g} at most, tokens equal: {tokens}")
    return tokens and greatest < 1e-5


if __name__ == "__main__":
    main()
