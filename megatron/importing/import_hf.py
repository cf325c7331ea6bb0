"""The story of an import: read a Hugging Face folder, write settings and a checkpoint of step 0, prove it equal."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from megatron.checkpointing.from_tensors import write_from_tensors
from megatron.checkpointing.reader import CheckpointReader
from megatron.errors import CheckpointError, SettingsError
from megatron.export.tensor_map import TensorMap
from megatron.export.verify import sample_text
from megatron.importing.hf_folder import HFFolder, open_hf_folder
from megatron.importing.hf_settings import settings_from_hf, source_of
from megatron.inference.load import inference_config, model_from_checkpoint
from megatron.model.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.mpu.shard import shard_of, without_initial_values
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer

SETTINGS = "model.yml"
TOLERANCE = 1e-4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# What a complete set of settings needs beyond the shape; every training run sets its own.
_PLACEHOLDER = {"train_micro_batch_size_per_gpu": 1, "lr": 1e-4}


@dataclass(frozen=True)
class Imported:
    """checkpoint: the folder written; settings: the YAML beside it; max_logit_difference: None if not verified."""

    checkpoint: Path
    settings: Path
    parameters: int
    max_logit_difference: float | None
    seconds: float


def import_hf_model(
    source: str | Path, output: Path, *, seq_length: int | None = None, precision: str = "auto", verify: bool = True
) -> Imported:
    """Write `output/global_step0`, `output/model.yml` and `output/tokenizer.json` from a Hugging Face folder.

    seq_length: written to model.yml; default: all positions, at most 4096. precision: of the stored weights.
    verify: logits of transformers' own model and of ours, on real text, differ by less than 1e-4 in fp32 - with
    full attention, or the rule that the folder names.
    Raises SettingsError for models that ours cannot be, CheckpointError for damaged folders and failed proofs.
    """
    start = time.monotonic()
    folder = open_hf_folder(source)
    precision = _stored_precision(folder) if precision == "auto" else precision
    keys = settings_from_hf(folder.config)
    keys["seq_length"] = min(seq_length or 4096, keys["max_position_embeddings"])
    output.mkdir(parents=True, exist_ok=True)
    tokenizer, vocab_file = _tokenizer(folder, output)
    keys |= {"tokenizer_type": "HFTokenizer", "vocab_file": str(vocab_file)}
    if not any(key in keys for key in ("separator_token_ids", "streamingLLM", "USE_FIXED_SEP_INTERVALs")):
        keys["USE_ORIGINAL_FULL_ATTEN"] = True
    args = _arguments(keys)
    config = inference_config(args, folder.config["vocab_size"], tokenizer)
    tensors = TensorMap(source_of(folder.config).family, config.num_attention_heads, config.num_kv_heads)
    checkpoint = write_from_tensors(
        output,
        _translated(folder, tensors, config, DTYPES[precision]),
        {
            "padded_vocab_size": config.padded_vocab_size,
            "separator_token_ids": list(config.attention.separators),
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "precision": precision,
            "settings": {"texts": args.texts, "overrides": args.overrides, "world_size": 1},
            "imported_from": {"model_type": folder.config["model_type"], "config": folder.config},
        },
    )
    reader = CheckpointReader(checkpoint)
    difference = None
    if verify:
        difference = _difference(folder, model_from_checkpoint(args, reader, tokenizer, torch.float32), tokenizer)
        if difference >= TOLERANCE:
            checkpoint.rename(checkpoint.with_name(checkpoint.name + ".failed"))
            raise CheckpointError(
                f"The imported model is not the one in {folder.path}: logits differ by {difference:.3g} "
                f"(allowed {TOLERANCE:g}). Nothing was put at {checkpoint}."
            )
    keys.pop("USE_ORIGINAL_FULL_ATTEN", None)  # what a training run adds to model.yml decides
    settings = output / SETTINGS
    settings.write_text(_settings_text(folder, keys), encoding="utf-8")
    return Imported(checkpoint, settings, _parameters(reader), difference, round(time.monotonic() - start, 2))


def _translated(
    folder: HFFolder, tensors: TensorMap, config: ModelConfig, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """(our name, our tensor), one at a time, for every parameter of our model."""
    with without_initial_values(), torch.device("meta"):
        model = GPTModel(config)
    for parameter in model.parameters():
        shard = shard_of(parameter)
        tensor = tensors.join(shard.name, [folder.tensor(name) for name in tensors.names(shard.name)])
        if tuple(tensor.shape) != shard.shape:
            raise CheckpointError(
                f"{tensors.names(shard.name)[0]} in {folder.path} gives {shard.name} the shape {list(tensor.shape)}; "
                f"config.json asks for {list(shard.shape)}."
            )
        yield shard.name, tensor.to(dtype)


@torch.inference_mode()
def _difference(folder: HFFolder, model: GPTModel, tokenizer: Tokenizer) -> float:
    """Greatest difference of logits between transformers' model of the folder and ours, fp32, real text."""
    from transformers import AutoModelForCausalLM

    from sepllm.hf.register import register

    register()  # a folder that we exported has its own copy of our code; no folder's code is run here
    theirs = AutoModelForCausalLM.from_pretrained(
        folder.path, trust_remote_code=False, local_files_only=True, use_safetensors=True, dtype=torch.float32
    ).eval()
    ids = tokenizer.tokenize(sample_text())
    greatest = 0.0
    for length in (1, 7, min(len(ids), model.config.max_position_embeddings, 512)):
        batch = torch.tensor([ids[:length], ids[-length:]])
        greatest = max(greatest, float((theirs(batch).logits - model(batch)).abs().max()))
    return greatest


def _tokenizer(folder: HFFolder, output: Path) -> tuple[Tokenizer, Path]:
    stored = folder.path / "tokenizer.json"
    if not stored.is_file():
        raise SettingsError(
            f"{folder.path} has no tokenizer.json, which training needs. Write one: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    copy = output / "tokenizer.json"
    shutil.copyfile(stored, copy)
    tokenizer = build_tokenizer("HFTokenizer", copy)
    if tokenizer.vocab_size > folder.config["vocab_size"]:
        raise SettingsError(
            f"{stored} has ids up to {tokenizer.vocab_size - 1}, but the model's vocab_size is "
            f"{folder.config['vocab_size']}: they do not belong together."
        )
    return tokenizer, copy


def _stored_precision(folder: HFFolder) -> str:
    name = str(folder.config.get("dtype") or folder.config.get("torch_dtype") or "float32").removeprefix("torch.")
    return _PRECISIONS.get(name, "fp32")


def _arguments(keys: dict[str, Any]) -> NeoXArgs:
    return arguments_from_texts([(SETTINGS, yaml.safe_dump(_PLACEHOLDER | keys, sort_keys=False))])


def _settings_text(folder: HFFolder, keys: dict[str, Any]) -> str:
    head = (
        f"# {folder.path.resolve().name} ({folder.config['model_type']}), as imported. Add attention, data, training:\n"
        "# python deepy.py train.py model.yml attention.yml data.yml --set load=THIS_FOLDER --set finetune=true\n"
    )
    return head + yaml.safe_dump(keys, sort_keys=False)


def _parameters(reader: CheckpointReader) -> int:
    return sum(torch.Size(reader.shape(name)).numel() for name in reader.names())
