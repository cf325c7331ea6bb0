"""The model of the settings on the ranks that run: all of it in one process, or one stage and tensor part per rank."""

import os
from dataclasses import replace

import torch

from megatron.checkpointing.load import check_complete, load_weights
from megatron.checkpointing.reader import CheckpointReader
from megatron.checkpointing.together import Together
from megatron.inference.load import DTYPES, check_tokenizer, decode_windows, inference_config
from megatron.inference.shared_forward import Layers, SharedForward
from megatron.model.gpt_model import GPTModel
from megatron.model.stages import pipeline_module
from megatron.mpu.parallel_state import ParallelState, single_process
from megatron.mpu.shard import shard_of, without_initial_values
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer, padded_vocab_size
from megatron.training.build import start_parallel
from megatron.training.same_everywhere import check_same_everywhere


def join_ranks(args: NeoXArgs) -> ParallelState:
    """One process where WORLD_SIZE is 1 or absent, else the layout of the settings."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return single_process()
    parallel = start_parallel(args)
    check_same_everywhere(Together.of(parallel), args.allow_different_versions)
    return replace(parallel, tp=replace(parallel.tp, sequence=False))  # tokens are decoded one by one


def model_on_ranks(
    args: NeoXArgs, tokenizer: Tokenizer, parallel: ParallelState, reader: CheckpointReader | None
) -> SharedForward:
    """The model with the weights of `reader`, or the initial ones; on GPUs in the training precision.

    Raises CheckpointError when tokenizer or tensors do not fit.
    """
    if reader is None:
        padded = padded_vocab_size(tokenizer.vocab_size, args.make_vocab_size_divisible_by, args.derived.tp_size)
        layers = _layers(args, tokenizer, parallel, padded)
    else:
        check_tokenizer(reader, tokenizer)
        with without_initial_values():
            layers = _layers(args, tokenizer, parallel, reader.padded_vocab_size)
        parameters = list(layers.parameters())
        load_weights(reader, parameters, parallel)
        own = {shard_of(parameter).name for parameter in parameters}
        check_complete(reader, set().union(*Together.of(parallel).gather(own)))
    assert isinstance(layers, torch.nn.Module)
    on_gpu = torch.cuda.is_available()
    layers.to("cuda" if on_gpu else "cpu", DTYPES[args.derived.precision] if on_gpu else torch.float32)
    layers.eval().requires_grad_(False)
    return shared_forward(layers, parallel, args)


def shared_forward(layers: Layers, parallel: ParallelState, args: NeoXArgs) -> SharedForward:
    """generate_local_window_size rules the cached steps after a prompt, as in generate.py."""
    windows = decode_windows(args)
    decode = None if windows is None else replace(layers.config.attention, window=windows)
    return SharedForward(layers, parallel, decode)


def _layers(args: NeoXArgs, tokenizer: Tokenizer, parallel: ParallelState, padded_vocab: int) -> Layers:
    config = inference_config(args, padded_vocab, tokenizer)
    if parallel.world_size == 1:
        return GPTModel(config)
    return pipeline_module(config, parallel, partition_method=args.pipe_partition_method)
