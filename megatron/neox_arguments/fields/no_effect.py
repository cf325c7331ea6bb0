"""Keys that choose between ways to the same result. They are accepted, and `--check` says that they change nothing."""

from pydantic import Field

from megatron.neox_arguments.fields.base import Group

_KERNEL = "kernels are chosen by what the machine has"
_ACTIVATIONS = "recomputation keeps one tensor per layer as it is"

Switch = bool | None


class NoEffectArgs(Group):
    """The description is what `--check` prints after "no effect:"."""

    layernorm_fusion: Switch = Field(None, description=_KERNEL)
    scaled_upper_triang_masked_softmax_fusion: Switch = Field(None, description=_KERNEL)
    scaled_masked_softmax_fusion: Switch = Field(None, description=_KERNEL)
    bias_dropout_fusion: Switch = Field(None, description=_KERNEL)
    rope_fusion: Switch = Field(None, description=_KERNEL)
    attention_softmax_in_fp32: Switch = Field(None, description="attention accumulates in fp32 anyway")
    use_cpu_initialization: Switch = Field(None, description="initial weights are the same on every device and layout")
    deepspeed_activation_checkpointing: Switch = Field(None, description="recomputation goes through torch")
    contiguous_checkpointing: Switch = Field(None, description=_ACTIVATIONS)
    partition_activations: Switch = Field(None, description=_ACTIVATIONS)
    synchronize_each_layer: Switch = Field(None, description="results do not depend on it, and it costs speed")
    use_shared_fs: Switch = Field(
        None, description="processes find the index in data_cache_path or build it by themselves"
    )
    no_ssh_check: Switch = Field(None, description="there is no test apart: hosts that do not answer are named at once")
    RECOMPILE_SEP_ATTN_KERNEL: Switch = Field(None, description="the attention plan is built without compiling")
    BATCH_ADAPTIVE_INIT_POS: Switch = Field(
        None, description="first tokens always count from the first real token of a row"
    )
    PRINT_KV_RATIO: Switch = Field(None, description="the share of kept pairs is in every step line")
    print_ratio_intervals: int | None = Field(None, description="the share of kept pairs follows log_interval")
    profile_backward: Switch = Field(None, description="the trace of profile holds forward and backward passes")
    override_lr_scheduler: Switch = Field(None, description="the schedule always follows the settings, also on resume")
