"""Run a named set of lm_eval tasks: the nine of the models trained from scratch, gsm8k_cot, or mmlu (task_sets.yml).

  run_tasks.py downstream --settings my_model.yml [--set key=value]   a checkpoint, by deepy.py eval.py
  run_tasks.py downstream --exported exported/my_model                an export, by lm_eval's hf
  run_tasks.py mmlu --stock MODEL --rule window=256                   a model of transformers, by hf-sepllm

The first run downloads the tasks' data from the Hugging Face hub; later ones need no network with --offline. On a
machine without a network, run once with --limit 1 where there is one, and copy the folder HF_HOME.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from megatron.errors import SettingsError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def task_sets() -> dict[str, dict[str, Any]]:
    """Name -> tasks, num_fewshot."""
    content: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "task_sets.yml").read_text(encoding="utf-8"))
    return content


def command(arguments: argparse.Namespace) -> list[str]:
    """The words that run the set on what was named."""
    chosen = task_sets()[arguments.set_name]
    if arguments.settings:
        return _on_checkpoint(arguments, chosen)
    return _by_lm_eval(arguments, chosen)


def _on_checkpoint(arguments: argparse.Namespace, chosen: dict[str, Any]) -> list[str]:
    keys = {
        "eval_tasks": f"[{', '.join(chosen['tasks'])}]",
        "eval_num_fewshot": chosen["num_fewshot"],
        "eval_limit": arguments.limit,
        "eval_batch_size": arguments.batch_size,
        "eval_results_prefix": f"{arguments.output}/{arguments.set_name}",
    }
    given = [f"{key}={value}" for key, value in keys.items() if value is not None]
    overrides = [word for pair in (*given, *arguments.set) for word in ("--set", pair)]
    return [sys.executable, str(ROOT / "deepy.py"), "eval.py", *arguments.settings, *overrides]


def _by_lm_eval(arguments: argparse.Namespace, chosen: dict[str, Any]) -> list[str]:
    if arguments.exported:
        _check_code(Path(arguments.exported))
        program, model, values = "lm_eval", "hf", [f"pretrained={arguments.exported}", "trust_remote_code=True"]
    else:
        program, model = "sepllm.hf.lm_eval_model", "hf-sepllm"
        values = [f"pretrained={arguments.stock}", *arguments.rule]
    words = [sys.executable, "-m", program, "--model", model, "--model_args", ",".join(values)]
    words += ["--tasks", ",".join(chosen["tasks"]), "--output_path", f"{arguments.output}/{arguments.set_name}"]
    options = {
        "--num_fewshot": chosen["num_fewshot"],
        "--limit": arguments.limit,
        "--batch_size": arguments.batch_size,
        "--device": arguments.device,
    }
    return words + [word for flag, value in options.items() if value is not None for word in (flag, str(value))]


def _check_code(folder: Path) -> None:
    """lm_eval loads an exported folder by the code in it: only our own code is run."""
    from sepllm.hf.code_files import foreign_code

    if not folder.is_dir():
        raise SettingsError(f"--exported {folder} is no folder; expected one that convert_neox_to_hf.py wrote.")
    if foreign := foreign_code(folder):
        raise SettingsError(
            f"{folder} holds Python files that this version's export does not write: {', '.join(foreign)}. Scoring "
            "would run them. Export the checkpoint anew; if you trust them, call lm_eval yourself with "
            "trust_remote_code=True."
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set_name", metavar="SET", choices=sorted(task_sets()), help="downstream, gsm8k_cot or mmlu")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--settings", nargs="+", metavar="FILE.yml", help="settings of a checkpoint (its load or save)")
    what.add_argument("--exported", metavar="FOLDER", help="a folder that convert_neox_to_hf.py wrote")
    what.add_argument("--stock", metavar="MODEL", help="a model of transformers, made sparse without training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="with --settings: one key")
    parser.add_argument("--rule", action="append", default=[], metavar="KEY=VALUE", help="with --stock: window=256 ...")
    parser.add_argument("--limit", type=int, help="documents per task, to try it out")
    parser.add_argument("--batch_size", type=int, help="texts per forward pass")
    parser.add_argument("--device", help="with --exported and --stock: cpu, cuda:0 ...")
    parser.add_argument("--output", default="results", help="folder of the results files")
    parser.add_argument("--offline", action="store_true", help="take data from the local cache only")
    parser.add_argument("--dry_run", action="store_true", help="print the command and stop")
    arguments = parser.parse_args(argv)
    words = command(arguments)
    print(shlex.join(words), file=sys.stderr, flush=True)
    if arguments.dry_run:
        return 0
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if arguments.offline else {}
    return subprocess.run(words, env=os.environ | offline, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
