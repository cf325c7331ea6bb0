"""A checkpoint of any layout as one model in this process, with its tokenizer."""

from dataclasses import dataclass
from pathlib import Path

import torch

from megatron.checkpointing.load import check_complete, load_weights
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.errors import CheckpointError, SettingsError
from megatron.model.config import (
    ModelConfig,
    end_of_document_from_args,
    model_config_from_args,
    separator_ids_from_args,
)
from megatron.model.gpt_model import GPTModel
from megatron.mpu.parallel_state import single_process
from megatron.mpu.shard import without_initial_values
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model ready to run (eval mode), where it came from, and the tokenizer it was trained with."""

    model: GPTModel
    tokenizer: Tokenizer
    checkpoint: Path


def load_model(
    args: NeoXArgs,
    load: str | Path | None = None,
    iteration: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> GPTModel:
    """The model of a checkpoint in eval mode on the CPU; pipeline and tensor sizes of `args` play no part.

    load: a `save` folder or a global_stepN folder; None takes `load` of the settings, else `save`.
    iteration: None takes that of the settings, else the newest whole checkpoint.
    Raises CheckpointError when nothing fits, SettingsError when no folder is named.
    """
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    return model_from_checkpoint(args, checkpoint_reader(args, load, iteration), tokenizer, dtype)


def load_for_inference(args: NeoXArgs) -> Loaded:
    """Model and tokenizer on the GPU in the training precision, or on the CPU in float32."""
    reader = checkpoint_reader(args)
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    on_gpu = torch.cuda.is_available()
    model = model_from_checkpoint(args, reader, tokenizer, DTYPES[args.derived.precision] if on_gpu else torch.float32)
    return Loaded(model.to("cuda" if on_gpu else "cpu"), tokenizer, reader.folder)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def checkpoint_reader(args: NeoXArgs, load: str | Path | None = None, iteration: int | None = None) -> CheckpointReader:
    """The checkpoint that the settings, or the arguments where given, point to."""
    folder = load or args.load or args.save
    if folder is None:
        raise SettingsError("No checkpoint is named. Set load to the folder a training run saved to: --set load=FOLDER")
    return CheckpointReader(find_checkpoint(folder, args.iteration if iteration is None else iteration))


def model_from_checkpoint(
    args: NeoXArgs, reader: CheckpointReader, tokenizer: Tokenizer, dtype: torch.dtype
) -> GPTModel:
    """Build the model of `args` and fill every weight. CheckpointError when tokenizer or tensors do not fit."""
    check_tokenizer(reader, tokenizer)
    config = inference_config(args, reader.padded_vocab_size, tokenizer)
    with without_initial_values():
        model = GPTModel(config)
    parameters = list(model.parameters())
    load_weights(reader, parameters, single_process())
    check_complete(reader, {name for name, _ in model.named_parameters()})
    return model.to(dtype).eval().requires_grad_(False)


def check_tokenizer(reader: CheckpointReader, tokenizer: Tokenizer) -> None:
    """CheckpointError when the checkpoint was trained with another vocabulary."""
    if reader.tokenizer_fingerprint not in (None, tokenizer.fingerprint):
        raise CheckpointError(
            f"{reader.folder} was trained with another tokenizer (vocabulary hash "
            f"{str(reader.tokenizer_fingerprint)[:12]}, now {tokenizer.fingerprint[:12]}). "
            "Set vocab_file to the tokenizer of that run."
        )


def inference_config(args: NeoXArgs, padded_vocab_size: int, tokenizer: Tokenizer) -> ModelConfig:
    """The model's shape; separators given as strings are looked up in the tokenizer."""
    ids = separator_ids_from_args(args, tokenizer)
    return model_config_from_args(args, padded_vocab_size, ids, end_of_document_from_args(args, tokenizer))


def decode_windows(args: NeoXArgs) -> tuple[int, ...] | None:
    """Windows per layer for cached decoding, where they differ from those of training; else None."""
    derived = args.derived
    return derived.generate_windows if derived.generate_windows != derived.windows else None
