"""Keys that are known and not available: why, and what to use. A neutral value passes in silence."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refused:
    """`neutral`: values that ask for nothing. Null always does; with {}, so does any block that is off or empty."""

    reason: str
    instead: str = "Remove the line."
    neutral: tuple[Any, ...] = (False,)

    def is_neutral(self, value: Any) -> bool:
        if isinstance(value, dict) and {} in self.neutral:
            return not value.get("enabled", any(value.values()))
        return value is None or any(type(value) is type(known) and value == known for known in self.neutral)


def _off(reason: str, instead: str = "Remove the line.") -> Refused:
    return Refused(reason, instead, neutral=(False, {}))


_LAUNCHER = "it is set by the launcher for each process"
_LOSS_SCALE = "the fp16 block holds the loss scale"
_MOE = "mixture-of-experts layers are not part of this framework"
_MAMBA = "Mamba layers are not part of this framework"
_MUP_SHAPES = "the base model is named by its width, without a file of shapes"
_ZERO = "it is read from the zero_optimization block"

REFUSED: dict[str, Refused] = {
    # DeepSpeed JSON
    "deepspeed": Refused("DeepSpeed is always the engine", neutral=(True,)),
    "scheduler": _off(
        "the learning rate is a function of the step kept by the framework", "Use lr_decay_style, warmup, min_lr."
    ),
    "fp32_allreduce": Refused(
        "gradients are summed in fp32 wherever data_types.grad_accum_dtype is fp32", "Use data_types."
    ),
    "prescale_gradients": Refused("gradients are averaged after their fp32 sum"),
    "gradient_predivide_factor": Refused("gradients are averaged after their fp32 sum", neutral=(1.0, 1)),
    "sparse_gradients": Refused("the vocabulary-parallel embedding has dense gradients"),
    "amp": _off("Apex AMP is gone from DeepSpeed", "Use precision: bfloat16, or the fp16 block."),
    "curriculum_learning": _off(
        "sequence-length curricula are not built", "Train in two runs with different seq_length."
    ),
    "curriculum_seqlen": Refused("it is internal state of GPT-NeoX", neutral=(0,)),
    "flops_profiler": _off(
        "DeepSpeed's profiler never runs under its pipeline engine", "Read TFLOP/s and mfu in the step line."
    ),
    "communication_data_type": Refused("gradients travel in the type of their sum", "Use data_types.grad_accum_dtype."),
    "autotuning": _off("DeepSpeed's autotuner starts scripts in its own way", "Compare short runs by their tokens/s."),
    "activation_checkpointing": _off("the flat keys hold it", "Use checkpoint_activations and checkpoint_num_layers."),
    "sparse_attention": _off(
        "DeepSpeed's block-sparse kernels are gone", "Use separator_token_ids and the window keys."
    ),
    "data_efficiency": _off("DeepSpeed's data sampling would change the order of the data"),
    "tensorboard": _off("tracking is done by the framework", "Use tensorboard_dir."),
    "wandb": _off("tracking is done by the framework", "Use use_wandb."),
    "csv_monitor": _off("tracking is done by the framework", "Read events.jsonl in the save folder."),
    "elasticity": _off("a run resumes with another number of processes from its checkpoint", "Set save and load."),
    "compression_training": _off("compression is not part of pretraining here"),
    "checkpoint": _off("checkpoints are written in the framework's own form", "Use save, load, checkpoint_factor."),
    # launching
    "detect_nvlink_pairs": Refused("no launcher knows it"),
    "autotuning_run": Refused("DeepSpeed's autotuner is not wired in", neutral=()),
    "comment": Refused("jobs are not submitted to Slurm from here", "Pass --comment to sbatch.", neutral=()),
    "account": Refused("jobs are not submitted to Slurm from here", "Pass --account to sbatch.", neutral=()),
    "deepspeed_mpi": Refused(
        "processes take their rank from RANK, WORLD_SIZE and LOCAL_RANK", "Export them, or use deepy.py."
    ),
    "deepspeed_slurm": Refused(
        "processes take their rank from RANK, WORLD_SIZE and LOCAL_RANK", "Export them in the srun script."
    ),
    "world_size": Refused(_LAUNCHER, "Use num_gpus or a hostfile.", neutral=()),
    "local_rank": Refused(_LAUNCHER, neutral=()),
    "rank": Refused(_LAUNCHER, neutral=()),
    "global_num_gpus": Refused("it is computed", "Use num_gpus or a hostfile.", neutral=()),
    "user_script": Refused("it is named on the command line", "python deepy.py train.py ...", neutral=()),
    "config_files": Refused("it is filled by the program", neutral=()),
    "lazy_mpu_init": Refused("process groups are made at start"),
    "is_pipe_parallel": Refused("it is computed", "Use pipe_parallel_size.", neutral=(False, True)),
    # model
    "sliding_window_width": Refused(
        "the window of a model is SepLLM's",
        "Use prefill_local_window_size (W + 1 keeps the same keys) and streamingLLM.",
        (),
    ),
    "attention_logits_soft_cap": Refused(
        "the fused attention kernels cannot cap scores, and every path must compute the same",
        "Use use_qk_layernorm: true, which bounds scores, or logits_soft_cap for the output.",
        (),
    ),
    "rpe_num_buckets": Refused("T5's relative bias is not built", "Use pos_emb: alibi or rotary.", (32,)),
    "rpe_max_distance": Refused("T5's relative bias is not built", "Use pos_emb: alibi or rotary.", (128,)),
    "sparsity_config": _off(
        "DeepSpeed's block-sparse kernels are gone", "Use separator_token_ids and the window keys."
    ),
    "num_unique_layers": Refused("layers are never shared (nor were they in GPT-NeoX)", neutral=()),
    "param_sharing_style": Refused("layers are never shared (nor were they in GPT-NeoX)", neutral=("grouped",)),
    "fp16_lm_cross_entropy": Refused("the loss is computed in fp32"),
    "apply_query_key_layer_scaling": Refused("attention accumulates in fp32 and needs no scaling by layer"),
    "rotary_save_freqs_buffer": Refused("rotary frequencies are computed, never stored"),
    "gmlp_attn_dim": Refused("gMLP layers are not part of this framework", neutral=(64,)),
    "soft_prompt_tuning": _off("soft prompts are not part of pretraining here"),
    "mamba_selective_scan_fusion": Refused(_MAMBA),
    "mamba_causal_conv_fusion": Refused(_MAMBA),
    "mamba_inner_func_fusion": Refused(_MAMBA),
    "mamba_selective_fp32_params": Refused(_MAMBA, neutral=(True,)),
    "mamba_use_bias_in_conv": Refused(_MAMBA, neutral=(True,)),
    "mamba_use_bias_in_linears": Refused(_MAMBA),
    "output_layer_parallelism": Refused("the output head is split by vocabulary", "Write column.", ("column",)),
    "onnx_safe": Refused("models are exported to Hugging Face folders", "Use tools/ckpts/convert_neox_to_hf.py."),
    "padded_vocab_size": Refused("it is computed from the tokenizer", "Use make_vocab_size_divisible_by.", ()),
    # optimizer
    "optimizer_type": Refused(
        "it is read from optimizer.type", "Use optimizer: {type: Adam} or {type: SGD}.", ("adam",)
    ),
    "zero_stage": Refused(_ZERO, "Use zero_optimization: {stage: 1}.", ()),
    "zero_reduce_scatter": Refused(_ZERO, "Use zero_optimization: {reduce_scatter: true}.", ()),
    "zero_contiguous_gradients": Refused(_ZERO, "Use zero_optimization: {contiguous_gradients: true}.", ()),
    "zero_reduce_bucket_size": Refused(_ZERO, "Use zero_optimization: {reduce_bucket_size: N}.", ()),
    "zero_allgather_bucket_size": Refused(_ZERO, "Use zero_optimization: {allgather_bucket_size: N}.", ()),
    "clip_grad": Refused("GPT-NeoX overwrites it with gradient_clipping", "Use gradient_clipping.", (1.0, 1)),
    "hysteresis": Refused(_LOSS_SCALE, "Use fp16: {hysteresis: N}.", (2,)),
    "dynamic_loss_scale": Refused(_LOSS_SCALE, "Use fp16: {loss_scale: 0}.", ()),
    "loss_scale": Refused(_LOSS_SCALE, "Use fp16: {loss_scale: N}.", ()),
    "loss_scale_window": Refused(_LOSS_SCALE, "Use fp16: {loss_scale_window: N}.", (1000.0, 1000)),
    "min_scale": Refused(_LOSS_SCALE, "Use fp16: {min_loss_scale: N}.", (1.0, 1)),
    # logging
    "wandb_init_all_ranks": Refused("one process speaks for the run"),
    "git_hash": Refused("it is found by the program", neutral=()),
    "gradient_noise_scale_cpu_offload": Refused("the estimate keeps no gradients that could be offloaded"),
    # left-overs of older programs
    "short_seq_prob": Refused("it belongs to BERT; GPT-NeoX never read it", neutral=(0.1,)),
    "adlr_autoresume": Refused(
        "it needs a module of NVIDIA's clusters", "Send SIGTERM: the run saves and exits with code 75."
    ),
    "adlr_autoresume_interval": Refused("it needs a module of NVIDIA's clusters", neutral=(1000,)),
    "deepscale": Refused("it is DeepSpeed's first name; GPT-NeoX never read it"),
    "deepscale_config": Refused("it is DeepSpeed's first name; GPT-NeoX never read it", neutral=()),
    "do_train": Refused("it is decided by train_iters", neutral=()),
    "do_valid": Refused("it is decided by the data and eval_iters", "Set eval_iters: 0 to switch evaluation off.", ()),
    "do_test": Refused("it is decided by the data and eval_iters", neutral=()),
    "save_iters": Refused("it is computed", "Use checkpoint_factor and extra_save_iters.", ()),
    "batch_size": Refused("it is an old name", "Use train_micro_batch_size_per_gpu.", ()),
    # data, checkpoints
    "s3_path": Refused(
        "checkpoints are written to a file system", "Copy the finished folders, for example with rclone.", ()
    ),
    "s3_chunk_size": Refused("checkpoints are written to a file system", neutral=(104857600,)),
    "checkpoint_validation_with_forward_pass": Refused(
        "every file of a checkpoint has a checksum that is verified on load"
    ),
    "checkpoint_in_cpu": Refused("recomputation keeps its one tensor per layer on the device"),
    "char_level_ppl": Refused("perplexity is per token", "lm_eval reports byte_perplexity."),
    # muP
    "coord_check": Refused(
        "the check is a test of the framework (tests/megatron/model/test_mup.py)", "Run that test with pytest."
    ),
    "save_base_shapes": Refused(_MUP_SHAPES, "Use mup_base_width: N."),
    "base_shapes_file": Refused(_MUP_SHAPES, "Use mup_base_width: N.", neutral=()),
    "mup_rp_embedding_mult": Refused("T5's relative bias is not built", neutral=(1.0, 1)),
    "mup_width_scale": Refused(_MUP_SHAPES, "Use mup_base_width: N.", neutral=(2,)),
    # experts
    "expert_interval": Refused(_MOE, neutral=(2,)),
    "moe_top_k": Refused(_MOE, neutral=(1,)),
    "use_tutel": Refused(_MOE),
    "moe_num_experts": Refused(_MOE, neutral=(1,)),
    "moe_loss_coeff": Refused(_MOE, neutral=(0.1,)),
    "moe_train_capacity_factor": Refused(_MOE, neutral=(1.0, 1)),
    "moe_eval_capacity_factor": Refused(_MOE, neutral=(1.0, 1)),
    "moe_min_capacity": Refused(_MOE, neutral=(4,)),
    "moe_token_dropping": Refused(_MOE),
    "create_moe_param_group": Refused(_MOE, neutral=(True,)),
    "moe_use_residual": Refused(_MOE, neutral=(True,)),
    "moe_expert_parallel_size": Refused(_MOE, neutral=(1,)),
    "moe_type": Refused(_MOE, neutral=("megablocks",)),
    "moe_glu": Refused(_MOE),
    "moe_lbl_in_fp32": Refused(_MOE),
    "moe_jitter_eps": Refused(_MOE, neutral=()),
    "enable_expert_tensor_parallelism": Refused(_MOE),
    # SepLLM
    "prefill_k": Refused(
        "SepLLM never built it", "Give dense layers a window of seq_length in prefill_loc_win_size_list.", (0,)
    ),
    "generate_k": Refused("SepLLM never built it", "Use generate_win_loc_size_list.", (0,)),
    "EXCLUDE_DIAGONAL": Refused("the window counts the token itself", "Use a window larger by one.", (True,)),
    "_DEFAULT_SPARSE_BLOCK_SIZE": Refused("block sizes are chosen by the attention path", neutral=(128,)),
    "floating_window": Refused("SepLLM dropped it; the window always moves along", neutral=(True,)),
}
