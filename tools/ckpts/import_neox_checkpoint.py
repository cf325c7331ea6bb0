"""Take the weights of a GPT-NeoX (or SepLLM) checkpoint of `.pt` files over into a checkpoint of ours.

python tools/ckpts/import_neox_checkpoint.py --input_dir old/global_step1000 --config_file old.yml --output_dir new
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_EPILOG = """\
The settings files are those of the run that saved it; any tensor-parallel size, with pipeline stages or without.
Train from OUTPUT_DIR with --set load=OUTPUT_DIR --set finetune=true. The files are read without running anything in
them; one that asks for more than tensors and numbers is refused.
exit codes: 0 done, 2 usage or settings, 4 damaged, unsafe or unfitting files."""


def main() -> None:
    """Parse the flags, import, say what was written."""
    parser = argparse.ArgumentParser(
        description="Import the weights of a GPT-NeoX checkpoint as global_step0.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input_dir", required=True, type=Path, metavar="DIR", help="a global_stepN folder")
    parser.add_argument("--config_file", required=True, nargs="+", metavar="YML", help="settings of that run")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    flags = parser.parse_args()
    from megatron.importing.import_neox import import_neox_checkpoint
    from megatron.neox_arguments.load import load_arguments

    args = load_arguments(flags.config_file, flags.set)
    done = import_neox_checkpoint(args, flags.input_dir, flags.output_dir)
    print(f"{flags.input_dir} -> {done.checkpoint} ({done.tensors} tensors, {done.parameters:,} parameters)")


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main)
