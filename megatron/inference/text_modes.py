"""What generate.py does with a model: text from nothing, from a file of prompts, or from the keyboard."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from megatron.errors import DataError, SettingsError
from megatron.inference.load import load_for_inference
from megatron.inference.samples import Sampler, sampler_from_args
from megatron.neox_arguments.arguments import NeoXArgs

MODES = ("unconditional", "input-file", "interactive")


def generate(args: NeoXArgs) -> None:
    """Run the mode `text_gen_type` asks for. Raises SettingsError, DataError or CheckpointError before any text."""
    mode = args.text_gen_type or ("input-file" if args.sample_input_file else None)
    if mode not in MODES:
        raise SettingsError(
            f"text_gen_type is {args.text_gen_type!r}; choose one of {', '.join(MODES)}, "
            "for example --set text_gen_type=interactive."
        )
    prompts = read_prompts(args.sample_input_file) if mode == "input-file" else []
    loaded = load_for_inference(args)
    sampler = sampler_from_args(args, loaded)
    print(f"Loaded {loaded.checkpoint}", file=sys.stderr, flush=True)
    if mode == "interactive":
        talk(sampler, args.prompt_end, sys.stdin, sys.stdout)
        return
    records = (
        sampler.unconditional(args.num_samples)
        if mode == "unconditional"
        else (sampler.sample(prompt) for prompt in prompts)
    )
    if args.sample_output_file is None:
        for record in records:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        return
    count = write_records(records, args.sample_output_file)
    print(f"Wrote {count} samples to {args.sample_output_file}", file=sys.stderr, flush=True)


def read_prompts(path: str | None) -> list[str]:
    """One prompt per line; `\\n` inside a line stays as written, empty lines are left out."""
    if path is None:
        raise SettingsError("text_gen_type input-file needs sample_input_file: a text file with one prompt per line.")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"sample_input_file {path!r} cannot be read: {error}.") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"sample_input_file {path!r} holds no prompt: it has {len(lines)} lines, all of them empty.")
    return prompts


def write_records(records: Iterable[dict[str, Any]], path: str) -> int:
    """Write one JSON object per line as it comes, so that a stopped run keeps what it had; returns how many."""
    target = Path(path)
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                count += 1
    except OSError as error:
        raise DataError(f"sample_output_file {path!r} cannot be written: {error}.") from error
    return count


def talk(sampler: Sampler, prompt_end: str, source: TextIO, target: TextIO) -> None:
    """Answer prompts until the input ends (Ctrl-D) or a prompt is `stop`.

    prompt_end: what ends a prompt. A newline: every line is one prompt. Any other text: a prompt may have
    several lines, and ends where a line ends with that text.
    """
    if source.isatty():
        ending = "Enter" if prompt_end == "\n" else f"{prompt_end!r} at the end of a line"
        target.write(f"A prompt ends with {ending}. `stop` or Ctrl-D leaves.\n")
    for prompt in _prompts(source, target, prompt_end):
        if prompt.strip() == "stop":
            return
        record = sampler.sample(prompt)
        target.write((record["message"] or record["text"]) + "\n")
        target.flush()


def _prompts(source: TextIO, target: TextIO, prompt_end: str) -> Iterator[str]:
    lines: list[str] = []
    _ask(source, target)
    for line in source:
        lines.append(line)
        text = "".join(lines)
        if prompt_end == "\n":
            complete = text.removesuffix("\n")
        elif text.removesuffix("\n").endswith(prompt_end):
            complete = text.removesuffix("\n").removesuffix(prompt_end)
        else:
            continue
        lines = []
        if complete.strip():
            yield complete
        _ask(source, target)


def _ask(source: TextIO, target: TextIO) -> None:
    if source.isatty():
        target.write("prompt > ")
        target.flush()
