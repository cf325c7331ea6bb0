"""Import a Hugging Face model for (continued) training with separator attention.

python tools/ckpts/convert_hf_to_neox.py --input_dir pythia-160m --output_dir runs/pythia-160m
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_DESCRIPTION = "Write a Hugging Face folder (GPT-NeoX/Pythia, Llama, Mistral, Qwen) as a checkpoint of step 0."
_EPILOG = """\
OUTPUT_DIR gets global_step0, model.yml (the shape, as settings) and tokenizer.json. Train from there with
  python deepy.py train.py OUTPUT_DIR/model.yml ATTENTION.yml TRAINING.yml --set load=OUTPUT_DIR --set finetune=true
exit codes: 0 done, 2 usage or a model that ours cannot be, 4 a damaged folder, or the proof failed."""


def main() -> None:
    """Parse the flags, import, say what was proven."""
    flags = _parser().parse_args()
    from megatron.importing.import_hf import import_hf_model

    done = import_hf_model(
        flags.input_dir,
        Path(flags.output_dir),
        seq_length=flags.seq_length,
        precision=flags.precision,
        verify=not flags.no_verify,
    )
    print(f"{flags.input_dir} -> {done.checkpoint} ({done.parameters:,} parameters, {done.seconds} s)")
    if done.max_logit_difference is not None:
        print(f"same model: logits differ by {done.max_logit_difference:.2g} at most (allowed 1e-4)")
    print(f"settings: {done.settings}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input_dir", required=True, metavar="DIR", help="folder with config.json and *.safetensors")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--seq_length", type=int, metavar="N", help="of training; default: all positions, at most 4096")
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "fp16", "bf16", "fp32"], help="of the weights; auto: as stored"
    )
    parser.add_argument("--no_verify", action="store_true", help="skip the comparison with transformers' own model")
    return parser


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main)
