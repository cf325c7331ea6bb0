"""The story of an export: read the settings, refuse what cannot be said, write the folder, prove it, report."""

import json
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.errors import CheckpointError, SettingsError
from megatron.export.expressible import choose_architecture
from megatron.export.hf_config import generation_config, hf_config
from megatron.export.model_card import model_card
from megatron.export.mup_folding import folded
from megatron.export.scores import Score
from megatron.export.tensor_map import TensorMap
from megatron.export.tokenizer_files import write_tokenizer
from megatron.export.verify import TOLERANCE, verify_folder
from megatron.export.weights import write_weights
from megatron.inference.load import DTYPES, check_tokenizer, decode_windows, inference_config, model_from_checkpoint
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from megatron.neox_arguments.problems import Problems
from megatron.neox_arguments.sources import read_files
from megatron.tokenizer.tokenizer import Tokenizer, build_tokenizer
from sepllm.hf.code_files import write_code_files

REPORT = "export_report.json"


@dataclass(frozen=True)
class Source:
    """A checkpoint with the settings and the tokenizer that belong to it."""

    reader: CheckpointReader
    args: NeoXArgs
    tokenizer: Tokenizer


def export_checkpoint(
    source: Source,
    output: Path,
    *,
    precision: str = "auto",
    architecture: str = "auto",
    verify: bool = True,
    scores: Sequence[Score] = (),
) -> dict[str, Any]:
    """Write the checkpoint as a folder that stock transformers loads; returns the report also written there.

    precision: fp32, bf16, fp16, or auto: the one it was trained in. architecture: a name of expressible.py, or auto:
    a stock class of transformers where one computes the same, else ours. scores: for the model card. The folder
    appears under its name only when it is complete and, with verify, proven equal; a failed one stays beside it as
    OUTPUT.failed.
    Raises SettingsError for what the architecture cannot express, CheckpointError when the proof fails.
    """
    start = time.monotonic()
    args, reader, tokenizer = source.args, source.reader, source.tokenizer
    check_tokenizer(reader, tokenizer)
    precision = args.derived.precision if precision == "auto" else precision
    config = inference_config(args, reader.padded_vocab_size, tokenizer)
    target = choose_architecture(config, architecture, decode_windows(args))
    _check_output(output)
    partial = _fresh(output.with_name(output.name + ".partial"))

    content = hf_config(config, tokenizer, target, precision)
    _write_json(partial / "config.json", content)
    _write_json(partial / "generation_config.json", generation_config(config, tokenizer))
    write_tokenizer(tokenizer, partial, config.max_position_embeddings)
    if target.is_ours:
        write_code_files(partial)
    tensor_map = TensorMap(target.family, config.num_attention_heads, config.num_kv_heads)
    # Our classes have muP's factors as settings; for stock ones they go into the weights.
    write_weights(
        reader,
        partial,
        tensor_map,
        DTYPES[precision],
        change=lambda name, value: value if target.is_ours else folded(name, value, config),
    )
    report: dict[str, Any] = {
        "checkpoint": str(reader.folder),
        "iteration": reader.iteration,
        "architecture": target.model_type,
        "precision": precision,
        "data_fingerprint": reader.state.get("data_fingerprint"),
        "parameters": sum(torch.Size(reader.shape(name)).numel() for name in reader.names()),
        "verification": None,
    }
    if verify:
        model = model_from_checkpoint(args, reader, tokenizer, DTYPES[precision]).float()
        report["verification"] = verify_folder(partial, model, tokenizer, precision).as_dict()
    report["seconds"] = round(time.monotonic() - start, 2)
    report["peak_memory_mib"] = _peak_memory_mib()
    _write_json(partial / REPORT, report)
    card = model_card(
        output,
        content,
        report["parameters"],
        reader.iteration,
        precision,
        args.to_flat_dict(),
        report["verification"],
        report["data_fingerprint"],
        scores,
    )
    (partial / "README.md").write_text(card, encoding="utf-8")
    if verify and not report["verification"]["passed"]:
        raise _not_equal(partial, output, report)
    _replace(partial, output)
    return report


def open_source(checkpoint: str | Path, config_files: list[str] | None = None) -> Source:
    """The checkpoint in a `save` folder (its newest) or global_stepN folder, with its settings and tokenizer.

    config_files: YAML files in place of the settings stored in the checkpoint.
    """
    reader = CheckpointReader(find_checkpoint(checkpoint))
    stored = reader.settings
    texts, overrides = [(name, text) for name, text in stored["texts"]], stored["overrides"]
    if config_files:
        texts, overrides = _read(config_files), []
    args = arguments_from_texts(texts, overrides, stored.get("world_size") if not config_files else None)
    return Source(reader, args, build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file))


def _peak_memory_mib() -> int:
    """Most memory that this process has held so far, imports included."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / (2**20 if sys.platform == "darwin" else 2**10))


def _read(files: list[str]) -> list[tuple[str, str]]:
    problems = Problems()
    texts = read_files(files, problems)
    problems.stop_if_any()
    return texts


def _check_output(output: Path) -> None:
    """A folder that is there may be replaced only if an export wrote it."""
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or (output / REPORT).is_file())):
        raise SettingsError(
            f"--output_dir {output} exists and is no exported model (it has no {REPORT}). Choose another folder."
        )


def _fresh(folder: Path) -> Path:
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise SettingsError(f"--output_dir: {folder} cannot be written: {error}.") from error
    return folder


def _replace(partial: Path, output: Path) -> None:
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)


def _not_equal(partial: Path, output: Path, report: dict[str, Any]) -> CheckpointError:
    failed = output.with_name(output.name + ".failed")
    if failed.exists():
        shutil.rmtree(failed)
    partial.rename(failed)
    proof = report["verification"]
    advice = "Were --config_file and the checkpoint's settings the same?"
    if not proof["tokenizer_equal"]:
        advice = (
            f"If transformers has a tokenizer of its own for {report['architecture']} models, which it takes in the "
            "place of the folder's, use --architecture sepllm_llama or sepllm_gpt_neox."
        )
    return CheckpointError(
        f"The exported model is not the trained one: logits differ by {proof['max_logit_difference']:.3g} "
        f"(allowed {TOLERANCE:g}), greedy tokens equal: {proof['greedy_tokens_equal']}, tokenizer equal: "
        f"{proof['tokenizer_equal']}. Nothing was put at {output}; the attempt with its {REPORT} is {failed}. {advice}"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
