"""A GPT-NeoX or DeepSpeed checkpoint of any tensor size as a checkpoint of step 0: its weights by our names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron.checkpointing.from_tensors import write_from_tensors
from megatron.errors import CheckpointError
from megatron.importing.neox_files import Key, NeoXFiles
from megatron.inference.load import inference_config
from megatron.model.gpt_model import GPTModel
from megatron.mpu.shard import Shard, shard_of, without_initial_values
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import build_tokenizer

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_EMBEDDING = "embedding.word_embeddings.weight"
_ROW_BIASES = ("attention.dense.bias", "mlp.dense_4h_to_h.bias")
_IGNORED = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias")


@dataclass(frozen=True)
class ImportedNeoX:
    """checkpoint: the folder written; tensors, parameters: how many."""

    checkpoint: Path
    tensors: int
    parameters: int


def import_neox_checkpoint(args: NeoXArgs, source: Path, output: Path) -> ImportedNeoX:
    """Write `output/global_step0` with every weight of the model of `args`.

    source: a global_stepN folder of GPT-NeoX, or the folder around it. CheckpointError for files that are damaged, ask
    for code, lack a tensor of the model, or hold one that the model does not have.
    """
    files = NeoXFiles(source)
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    rows = sum(part.shape[0] for part in files.parts(*neox_key(_EMBEDDING, args.num_layers)))
    if rows < tokenizer.vocab_size:
        raise CheckpointError(
            f"The embedding in {files.folder} has {rows} rows, fewer than the {tokenizer.vocab_size} tokens of the "
            "tokenizer. Set tokenizer_type and vocab_file as in the run that saved it."
        )
    config = inference_config(args, rows, tokenizer)
    with without_initial_values(), torch.device("meta"):
        shards = [shard_of(parameter) for parameter in GPTModel(config).parameters()]
    wanted = {neox_key(shard.name, args.num_layers) for shard in shards}
    unknown = sorted(key for key in files.keys() - wanted if not key[1].endswith(_IGNORED))
    if unknown:
        raise CheckpointError(
            f"{files.folder} holds {len(unknown)} tensors that a model of these settings does not have, first "
            f"{unknown[0][1]!r} of layer {unknown[0][0]:02d}. Compare num_layers, norm, mlp_type and the biases."
        )
    written = write_from_tensors(
        output,
        _merged(files, shards, args),
        {
            "padded_vocab_size": rows,
            "separator_token_ids": list(config.attention.separators),
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "precision": args.derived.precision,
            "settings": {"texts": args.texts, "overrides": args.overrides, "world_size": 1},
            "imported_from": {"format": "GPT-NeoX", "folder": files.folder.name},
        },
    )
    return ImportedNeoX(written, len(shards), sum(torch.Size(shard.shape).numel() for shard in shards))


def neox_key(name: str, num_layers: int) -> Key:
    """Our global name -> GPT-NeoX's layer number (0 embedding, 2.. layers, then final norm and head) and name."""
    place, _, rest = name.partition(".")
    if place == "layers":
        number, _, rest = rest.partition(".")
        return int(number) + 2, rest
    if place == "embedding":
        return 0, rest
    if place == "final_norm":
        return num_layers + 3, f"norm.{rest}"
    return num_layers + 4, rest


def merge(shard: Shard, parts: list[Tensor], *, parallel_residual: bool) -> Tensor:
    """One tensor of the parts of all tensor ranks, float32 arithmetic where values are combined.

    Cut ones are joined. Biases behind a row-parallel matrix add up where both branches share one sum over the ranks
    (gpt_j_residual), and are equal otherwise; norms are equal up to drift: the mean.
    """
    if len(parts) == 1:
        return parts[0]
    if shard.dim is not None:
        return torch.cat(parts, dim=shard.dim)
    stacked = torch.stack([part.float() for part in parts])
    summed = parallel_residual and shard.name.endswith(_ROW_BIASES)
    return (stacked.sum(dim=0) if summed else stacked.mean(dim=0)).to(parts[0].dtype)


def _merged(files: NeoXFiles, shards: list[Shard], args: NeoXArgs) -> Iterator[tuple[str, Tensor]]:
    dtype = _DTYPES[args.derived.precision]
    for shard in shards:
        layer, name = neox_key(shard.name, args.num_layers)
        tensor = merge(shard, files.parts(layer, name), parallel_residual=args.gpt_j_residual)
        if tuple(tensor.shape) != tuple(shard.shape):
            raise CheckpointError(
                f"{name} of layer {layer:02d} in {files.folder} has shape {list(tensor.shape)}, the model of these "
                f"settings {list(shard.shape)}. Use the settings of the run that saved it."
            )
        yield shard.name, tensor.to(dtype)
