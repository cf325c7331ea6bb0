"""Files that run code when unpickled, in the place of every file that a command reads: refused, nothing runs."""

import ast
import contextlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from megatron.checkpointing.manifest import describe_file, write_manifest
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.data.index_cache import IndexCache
from megatron.data.indexed_dataset import IndexedDataset
from megatron.errors import UserError
from megatron.importing.import_hf import import_hf_model
from megatron.importing.neox_files import NeoXFiles
from megatron.monitor.events import read_events
from megatron.neox_arguments.load import load_arguments
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.faults.small_saves import NAMES, save_small
from tests.helpers.tiny_run import write_tiny_data
from tests.megatron.importing.hf_models import write_hf_model

ROOT = Path(__file__).resolve().parents[2]


RUNS_TEXT = ("eval", "exec", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load")
ENDS_BY_NAME = ("pkill", "killall")  # processes of others may have the same name


class Evil:
    """Makes the folder it names when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.marker,)


def evil_bytes(marker: Path) -> dict[str, bytes]:
    """The same payload as a plain pickle, a torch file and a NumPy file."""
    torch_file, numpy_file = io.BytesIO(), io.BytesIO()
    torch.save({"x": Evil(marker)}, torch_file)
    np.save(numpy_file, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    return {"pickle": pickle.dumps(Evil(marker)), "torch": torch_file.getvalue(), "numpy": numpy_file.getvalue()}


def checkpoint_file(name: str) -> Callable[[Path, bytes], None]:
    """With a manifest that fits: whoever can write the files can write it too."""

    def read(folder: Path, content: bytes) -> None:
        step = save_small(folder, 1)
        (step / name).write_bytes(content)
        if name != "manifest.json":
            (step / "manifest.json").unlink()
            write_manifest(step, {path.name: describe_file(path) for path in step.iterdir()})
        reader = CheckpointReader(find_checkpoint(folder))
        reader.rng(0)
        for key in NAMES:
            reader.weight(key)
            reader.optimizer_tensor(key, "exp_avg")

    return read


def data_file(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        prefix = write_tiny_data(folder)
        prefix.with_name(prefix.name + suffix).write_bytes(content)
        IndexedDataset(prefix).tokens(0, 10)

    return read


def index_cache(folder: Path, content: bytes) -> None:
    """A poisoned array is rebuilt, not read."""
    cache = IndexCache(folder, lambda text: None)

    def build(writer: Any) -> None:
        writer.save("numbers", np.arange(5))

    cache.arrays("name", {"a": 1}, build)
    for path in folder.rglob("*.npy"):
        path.write_bytes(content)
    assert cache.arrays("name", {"a": 1}, build)["numbers"].tolist() == [0, 1, 2, 3, 4]
    raise UserError("rebuilt")


def tokenizer(kind: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        for name in ("vocab", "merges"):
            (folder / name).write_bytes(content)
        build_tokenizer(kind, str(folder / "vocab"), str(folder / "merges"))

    return read


def event_log(folder: Path, content: bytes) -> None:
    (folder / "events.jsonl").write_bytes(content)
    list(read_events(folder / "events.jsonl"))


def settings_file(folder: Path, content: bytes) -> None:
    (folder / "x.yml").write_bytes(content)
    load_arguments([folder / "x.yml"])


def neox_file(folder: Path, content: bytes) -> None:
    (folder / "layer_00-model_00-model_states.pt").write_bytes(content)
    NeoXFiles(folder).keys()


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "weights": checkpoint_file("weights-pp000-tp000.safetensors"),
    "optimizer": checkpoint_file("optimizer-pp000-tp000-dp0000.safetensors"),
    "rng": checkpoint_file("rng-rank00000.safetensors"),
    "state": checkpoint_file("state.json"),
    "manifest": checkpoint_file("manifest.json"),
    "data .idx": data_file(".idx"),
    "index cache": index_cache,
    "tokenizer.json": tokenizer("HFTokenizer"),
    "GPT-2 tokenizer": tokenizer("GPT2BPETokenizer"),
    "sentencepiece": tokenizer("SPMTokenizer"),
    "event log": event_log,
    "settings": settings_file,
    "GPT-NeoX file": neox_file,
}


def test_no_code_runs(tmp_path: Path, score: Callable[..., None]) -> None:
    marker = tmp_path / "marker"
    held = tried = 0
    for reader, read in READERS.items():
        for kind, content in evil_bytes(marker).items():
            folder = tmp_path / f"{reader} {kind}"
            folder.mkdir()
            with pytest.raises(Exception) as caught:
                read(folder, content)
            tried += 1
            held += isinstance(caught.value, UserError) and not marker.exists()
            assert isinstance(caught.value, UserError), (reader, kind, caught.value)
            assert not marker.exists(), (reader, kind)
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"):
        folder = tmp_path / tag.replace("/", "-")
        folder.mkdir()
        with pytest.raises(UserError):
            settings_file(folder, f"save: !!{tag} ['{marker}']".encode())
        tried, held = tried + 1, held + (not marker.exists())
    score("S29", held, tried, naive(marker))


def naive(marker: Path) -> str:
    bitten = 0
    for load in (
        lambda content: torch.load(io.BytesIO(content["torch"]), weights_only=False),
        lambda content: np.load(io.BytesIO(content["numpy"]), allow_pickle=True),
        lambda content: yaml.unsafe_load(f"!!python/object/apply:os.mkdir ['{marker}']"),
    ):
        load(evil_bytes(marker))
        bitten += marker.exists()
        marker.rmdir()
    assert bitten == 3
    return "torch.load, np.load and yaml.unsafe_load each run it"


@pytest.mark.parametrize("model_type", ["llama", "sepllm_llama", "unheard_of"])
def test_code_that_a_model_folder_brings_is_not_run(tmp_path: Path, model_type: str) -> None:
    """A stock model, one that claims to be ours, and one of no known type: each names a class in a file of its own."""
    folder, marker = write_hf_model(tmp_path / "hf", "llama grouped, biased"), tmp_path / "marker"
    (folder / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_evil.X", "AutoModelForCausalLM": "modeling_evil.X"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type, "auto_map": names}))
    with contextlib.suppress(UserError):
        import_hf_model(folder, tmp_path / "ours")
    assert not marker.exists()
    if model_type == "llama":  # the naive way
        with contextlib.suppress(Exception):
            AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
        assert marker.exists()


def test_a_manifest_names_no_file_outside(tmp_path: Path) -> None:
    step = save_small(tmp_path, 1)
    manifest = json.loads((step / "manifest.json").read_text())
    (tmp_path / "secret").write_text("x")
    manifest["files"]["../secret"] = describe_file(tmp_path / "secret")
    (step / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no file name"):
        find_checkpoint(tmp_path)


def test_no_unsafe_call_in_the_sources() -> None:
    """pickle only between our own processes; torch.load weights-only, in one place."""
    allowed = {"megatron/data/readers.py", "megatron/data/reading_process.py"}
    own_code = {"megatron/export/verify.py"}  # reads the folder that it has just written
    found = []
    for path in [*ROOT.glob("*.py"), *(p for f in ("megatron", "sepllm", "tools") for p in (ROOT / f).rglob("*.py"))]:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in ENDS_BY_NAME:
                found.append(f"{name}:{node.lineno} {node.value}")
            if not isinstance(node, ast.Call):
                continue
            text, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = (
                (text in ("pickle.load", "pickle.loads") and name not in allowed)
                or (text == "torch.load" and options.get("weights_only") != "True")
                or options.get("allow_pickle") == "True"
                or text in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "marshal.loads")
                or options.get("shell") == "True"
                or text in RUNS_TEXT
                or (options.get("trust_remote_code") == "True" and name not in own_code)
            )
            if unsafe:
                found.append(f"{name}:{node.lineno} {text}")
    assert not found
