"""Where each accepted key is read: the package that reads `args.KEY`, or what is computed from it and read elsewhere.

"derived.NAME": computed in derive.py. "sep_config()", "deepspeed_config()": read by that function.
"""

_READ_BY = {
    "megatron/model": (
        "num_layers hidden_size num_attention_heads max_position_embeddings gpt_j_residual gpt_j_tied norm "
        "layernorm_epsilon rms_norm_epsilon scalenorm_epsilon use_qk_layernorm use_bias_in_norms "
        "use_bias_in_attn_linear mlp_type activation bias_gelu_fusion no_weight_tying hidden_dropout "
        "attention_dropout pos_emb rotary_pct rotary_emb_base opt_pos_emb_offset init_method "
        "output_layer_init_method init_method_std attention_document_mask head_dim use_bias_in_attn_dense "
        "use_bias_in_mlp rope_scaling logits_soft_cap z_loss"
    ),
    "derived.num_kv_heads": "num_kv_heads",
    "derived.mlp_hidden_size": "intermediate_size",
    "megatron/data": (
        "seq_length data_path split train_data_paths valid_data_paths test_data_paths train_data_weights "
        "valid_data_weights test_data_weights weight_by_num_documents weighted_sampler_alpha "
        "train_label_data_paths valid_label_data_paths test_label_data_paths mmap_warmup eod_mask_loss seed "
        "weight_by_num_tokens train_data_weight_changes pack_impl allow_chopped data_kind data_order data_cache_path "
        "num_workers validation_sets validation_label_sets"
    ),
    "megatron/training": (
        "make_vocab_size_divisible_by tokenizer_type vocab_file merge_file distributed_backend "
        "sequence_parallel allow_different_versions "
        "timeout_minutes pipe_partition_method checkpoint_activations checkpoint_num_layers "
        "recompute_granularity torch_compile eval_interval eval_tasks_interval "
        "exit_interval log_interval train_iters train_epochs eval_iters iteration save load keep_last_n_checkpoints "
        "keep_checkpoints_every async_save auto_resume skip_nonfinite_steps skip_samples loss_spike_deviations "
        "loss_spike_action "
        "finetune warm_start warm_start_fresh no_load_optim no_load_rng no_save_optim no_save_rng "
        "profile profile_step_start profile_step_stop memory_profiling memory_profiling_path "
        "log_dir tensorboard_dir use_wandb wandb_group wandb_team wandb_run_name wandb_project wandb_host "
        "use_comet comet_workspace comet_project comet_experiment_name comet_tags comet_others log_grad_norm "
        "log_param_norm log_grad_pct_zeros log_optimizer_states log_gradient_noise_scale "
        "gradient_noise_scale_n_batches log_sample_hashes loss_average peak_theoretical_tflops"
    ),
    "megatron/display": "display",
    "sep_config()": (
        "separator_token_ids init_tok_max_idx prefill_local_window_size "
        "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS prefill_loc_win_size_list USE_ORIGINAL_FULL_ATTEN "
        "streamingLLM USE_FIXED_SEP_INTERVALs fixed_sep_intervals_list dense_layers"
    ),
    "derived.separators": "separators",
    "derived.generate_windows": (
        "generate_local_window_size USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS generate_win_loc_size_list"
    ),
    "derived.attention_path": "USE_SEP_ATTN_KERNEL_ACCELERATOR attention_path",
    "derived.softmax": "USE_SA_SOFTMAX USE_SA_SOFTMAX_NO_DENO",
    "derived.softmax_numerator_bias": "SA_Numerator_Bias",
    "derived.softmax_denominator_bias": "SA_Denominator_Bias",
    "derived.bipe_separators": "USE_BiPE BiPE_seps",
    "derived.train_batch_size": "train_batch_size",
    "derived.micro_batch_size": "train_micro_batch_size_per_gpu",
    "derived.gradient_accumulation_steps": "gradient_accumulation_steps",
    "derived.optimizer": "optimizer lr weight_decay weight_decay_embeddings use_bnb_optimizer",
    "derived.mup": (
        "use_mup mup_base_width mup_base_head_dim mup_init_scale mup_attn_temp mup_output_temp mup_embedding_mult"
    ),
    "megatron/optim": "lr_decay_style min_lr lr_wsd_decay_style",
    "derived.schedule": (
        "warmup lr_decay_iters lr_decay_tokens lr_warmup_iters lr_warmup_tokens lr_wsd_decay_iters lr_wsd_decay_tokens"
    ),
    "derived.batch_plan": "rampup_batch_size",
    "derived.train_samples": "train_tokens",
    "derived.precision": "precision",
    "deepspeed_config()": (
        "fp16 bf16 data_types gradient_clipping zero_optimization steps_per_print wall_clock_breakdown "
        "dump_state comms_logger deepspeed_extra_args"
    ),
    "derived.is_save_iteration": "checkpoint_factor checkpoint_scale extra_save_iters",
    "derived.pp_size": "pipe_parallel_size",
    "derived.tp_size": "model_parallel_size",
    "derived.cp_size": "context_parallel_size",
    "megatron/launcher": (
        "max_restarts min_hosts hostfile num_gpus "
        "master_addr master_port force_multi forward_environment launcher include exclude num_nodes"
    ),
    "megatron/inference": (
        "temperature top_p top_k maximum_tokens recompute return_logits text_gen_type prompt_end "
        "sample_input_file sample_output_file num_samples"
    ),
    "megatron/evaluation": "eval_tasks eval_num_fewshot eval_limit eval_batch_size eval_parallel eval_results_prefix",
}

HONOURED: dict[str, str] = {key: where for where, keys in _READ_BY.items() for key in keys.split()}
