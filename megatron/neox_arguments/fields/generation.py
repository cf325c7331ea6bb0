"""Text generation and evaluation tasks."""

from typing import Annotated, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Count, Fraction, Group, NotNegative, Positive


class GenerationArgs(Group):
    """generate.py."""

    text_gen_type: Annotated[Literal["unconditional", "input-file", "interactive"], AnyCase] | None = Field(
        None, description="Where prompts come from."
    )
    temperature: NotNegative = Field(
        0.0, description="Sampling temperature; 0 without top_k and top_p picks the likeliest."
    )
    top_p: Fraction = Field(0.0, description="Sample from the likeliest tokens that hold this mass; 0 is off.")
    top_k: Count = Field(0, description="Sample from the k likeliest tokens; 0 is off.")
    maximum_tokens: Positive = Field(64, description="New tokens per sample.")
    prompt_end: str = Field("\n", description="Text that ends an interactive prompt.")
    sample_input_file: str | None = Field(None, description="Prompts, one per line.")
    sample_output_file: str | None = Field("samples.txt", description="Where samples are written.")
    num_samples: Positive = Field(1, description="Unconditional samples to draw.")
    recompute: bool = Field(
        False, description="Compute the whole context for each token rather than cache keys and values."
    )
    return_logits: bool = Field(False, description="Write logits beside the samples.")


class EvaluationArgs(Group):
    """eval.py, and tasks during training."""

    eval_tasks: list[str] | None = Field(None, description="lm_eval tasks: names, or paths of task files.")
    eval_num_fewshot: Count | None = Field(
        None, description="Solved examples in front of each question; default: as each task says."
    )
    eval_limit: Positive | None = Field(None, description="Documents per task, from its start; default: all.")
    eval_batch_size: Positive | None = Field(
        None, description="Texts that one model copy reads at once; default: the micro-batch size."
    )
    eval_parallel: bool = Field(
        False, description="eval.py starts the ranks of the settings; off, one process holds the whole model."
    )
    eval_tasks_interval: Positive | None = Field(
        None, description="Steps between runs of eval_tasks during training; default: never."
    )
    eval_results_prefix: str = Field("", description="Start of the result file's name.")
