"""Conversations to token files with label files, through the chat template of a Hugging Face tokenizer folder.

python tools/datasets/preprocess_data_with_chat_template.py --input chat.jsonl --output-prefix data/chat \\
    --tokenizer-path my_tokenizer
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.data.input_files import ENDINGS, find_input_files
from megatron.data.label_encoders import ChatEncoder
from megatron.data.label_report import repairer, report_lines
from megatron.data.label_sets import write_label_sets
from megatron.data.progress import ByteProgress
from megatron.data.text_files import TextFiles
from megatron.errors import SettingsError
from megatron.launcher.entry import run_main
from megatron.tokenizer.chat_template import ChatTemplate

_EPILOG = """\
A conversation is a list of {"role": ..., "content": ...}. Writes <prefix>_<key>_document, <prefix>_<key>_label_document
and, with --reward-key, <prefix>_<key>_reward_document. Labels count on the turns of --generation-role.
exit codes: 0 done (documents left out are listed in <prefix>_rejects.txt), 2 usage or settings, 3 nothing usable."""


def main() -> None:
    """Parse the flags, tokenise, say what was made."""
    flags = _parser().parse_args()
    if flags.workers < 1:
        raise SettingsError(f"--workers: expected 1 or more, found {flags.workers}.")
    if flags.binary_reward and not flags.reward_key:
        raise SettingsError("--binary-reward needs --reward-key, which names the value.")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker is one thread
    template = ChatTemplate(Path(flags.tokenizer_path), Path(flags.chat_template) if flags.chat_template else None)
    if flags.for_rm and template.eos is None:
        raise SettingsError("--for-rm: the tokenizer has no eos_token, on which the reward would be read.")
    keys = tuple(dict.fromkeys(key for item in flags.jsonl_keys for key in item.split(",") if key))
    encode = ChatEncoder(
        template, keys, flags.generation_role, flags.only_last, flags.for_rm, flags.no_mask, flags.reward_key,
        flags.binary_reward, repairer(flags.ftfy),
    )  # fmt: skip
    outputs: dict[Path, str] = {}
    for key in keys:
        outputs[Path(f"{flags.output_prefix}_{key}_document")] = "int32"
        if not flags.no_mask:
            outputs[Path(f"{flags.output_prefix}_{key}_label_document")] = "int32"
        if flags.reward_key:
            kind = "int32" if flags.binary_reward else "float32"
            outputs[Path(f"{flags.output_prefix}_{key}_reward_document")] = kind
    files = find_input_files(flags.input)
    columns = [*keys, *([flags.reward_key] if flags.reward_key else [])]
    rejects = Path(f"{flags.output_prefix}_rejects.txt")
    progress = ByteProgress(TextFiles(files, columns).total_bytes, "tokenise")
    made = write_label_sets(files, columns, outputs, encode, rejects, workers=flags.workers, progress=progress.add)
    for line in report_lines(made, rejects, has_labels=not flags.no_mask):
        print(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = parser.add_argument_group("text")
    text.add_argument("--input", nargs="+", required=True, help=f"files or folders, also as comma lists: {ENDINGS}")
    text.add_argument("--jsonl-keys", nargs="+", default=["conversation"], help="keys of the messages (conversation)")
    text.add_argument("--generation-role", default="assistant", help="whose turns have labels (assistant)")
    text.add_argument("--only-last", action="store_true", help="labels on the last turn alone")
    text.add_argument("--no-mask", action="store_true", help="everything counts; no label file is written")
    text.add_argument("--for-rm", action="store_true", help="for reward models: a label on the end alone")
    text.add_argument("--reward-key", metavar="KEY", help="write the number under this key as a data set of its own")
    text.add_argument("--binary-reward", action="store_true", help="rewards are 1 where the value is true, else -1")
    text.add_argument("--num-docs", type=int, help="not needed: progress goes by bytes")
    tokens = parser.add_argument_group("tokenizer")
    tokens.add_argument("--tokenizer-path", required=True, metavar="DIR", help="folder with tokenizer.json")
    tokens.add_argument("--chat-template", metavar="FILE", help="a Jinja template instead of the folder's own")
    tokens.add_argument("--ftfy", action="store_true", help="repair garbled characters with ftfy first")
    output = parser.add_argument_group("output")
    output.add_argument("--output-prefix", required=True, help="path without the ending _<key>_document.bin")
    output.add_argument("--dataset-impl", choices=["mmap"], default="mmap", help="the only format written")
    output.add_argument("--workers", type=int, default=1, help="processes (1); same result for any number")
    output.add_argument("--log-interval", type=int, help="not needed: a line comes every two seconds")
    return parser


if __name__ == "__main__":
    run_main(main)
