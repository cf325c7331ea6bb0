"""Export a checkpoint of any pipeline x tensor layout to a folder that stock transformers loads.

python tools/ckpts/convert_neox_to_hf.py --input_dir runs/a/global_step100 --output_dir exported
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_DESCRIPTION = "Write a checkpoint as a Hugging Face folder and prove that it computes the same."
_EPILOG = """\
The folder loads with AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) and needs none of our packages.
exit codes: 0 done, 2 usage or a setting that cannot be exported, 4 nothing loadable, or the proof failed."""


def main() -> None:
    """Parse the flags, export, say what was proven."""
    flags = _parser().parse_args()
    from megatron.export.export import export_checkpoint, open_source
    from megatron.export.scores import read_scores

    source = open_source(flags.input_dir, flags.config_file)
    report = export_checkpoint(
        source,
        Path(flags.output_dir),
        precision=flags.precision,
        architecture=flags.architecture,
        verify=not flags.no_verify,
        scores=read_scores(flags.results),
    )
    print(
        f"{report['checkpoint']} -> {flags.output_dir} as {report['architecture']} ({report['precision']}, "
        f"{report['seconds']} s, {report['peak_memory_mib']} MiB at most)"
    )
    if proof := report["verification"]:
        print(
            f"same model: logits differ by {proof['max_logit_difference']:.2g} at most "
            f"(allowed {proof['tolerance']:g}), {proof['greedy_tokens_compared']} greedy tokens equal, "
            f"texts of {list(proof['lengths'])} tokens"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input_dir", required=True, metavar="DIR", help="global_stepN, or its parent (takes the newest)"
    )
    parser.add_argument(
        "--config_file",
        nargs="+",
        metavar="YAML",
        help="settings of the run; default: those stored in the checkpoint",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp16", "bf16", "fp32"],
        help="of the weights; auto: the precision of training",
    )
    parser.add_argument(
        "--architecture",
        default="auto",
        help="auto (a stock class where one computes the same, else ours), sepllm_gpt_neox, sepllm_llama, or a stock "
        "class for full attention: neox, llama, mistral, qwen2, qwen3",
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="JSON",
        help="results files of lm_eval or eval.py, for a table in the model card",
    )
    parser.add_argument("--no_verify", action="store_true", help="skip the comparison with our own model")
    return parser


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main)
