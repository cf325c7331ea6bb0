"""Perplexity of a text without end under a cache of constant size: SepLLM, StreamingLLM, or everything.

python tools/streaming/evaluate_streaming_perplexity.py --model_name_or_path MODEL --dataset_name books/ \\
    --enable_kv_cache_manager --enable_SepLLM --enable_pos_shift --num_eval_tokens 4000000 --output_dir out/sepllm
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron.errors import SettingsError
from sepllm.config import SepConfig

_EPILOG = """\
Writes log.txt (one loss a line, in nats), ppl.txt, report.json and a state to resume from. Flags of both published
evaluators are understood; switches may be given alone or with true/false. Without --enable_kv_cache_manager nothing is
evicted, which costs time and memory that grow with the text. Compare runs with tools/streaming/compare_runs.py.
exit codes: 0 done, 2 usage, settings or a model that cannot be read exactly, 3 data."""


def main() -> None:
    """Parse the flags, load model and texts, score, say the result."""
    flags = _parser().parse_args()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sepllm.streaming.run import StreamRun
    from sepllm.streaming.score import StreamScorer
    from tools.streaming.texts import documents, token_ids

    source: dict[str, Any] = {"local_files_only": Path(flags.model_name_or_path).is_dir()}
    source["trust_remote_code"] = flags.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(flags.model_name_or_path, **source)
    dtype = getattr(torch, flags.dtype) if flags.dtype != "auto" else "auto"
    model = AutoModelForCausalLM.from_pretrained(flags.model_name_or_path, dtype=dtype, **source)
    device = flags.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    config = _config(flags, tokenizer, model.config)
    scorer = StreamScorer(model, config, flags.schedule, flags.block, _positions(flags))
    about = {
        "model": flags.model_name_or_path,
        "data": flags.dataset_name,
        "mode": config.mode,
        "schedule": scorer.settings.schedule,
        "positions": scorer.settings.positions,
        "init_tokens": config.init_tokens,
        "separators": list(config.separators),
        "max_separators": config.max_separators,
        "window": config.window,
        "capacity": config.capacity,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    run = StreamRun(scorer, Path(flags.output_dir), about, flags.num_eval_tokens, lambda line: print(line, flush=True))
    texts = documents(
        flags.dataset_name, task=flags.task, split=flags.split, key=flags.text_key, most=flags.num_samples
    )
    done = run.score(token_ids(texts, tokenizer), resume=flags.resume)
    if not done.tokens:
        raise SettingsError(f"--dataset_name {flags.dataset_name} holds no text of two tokens or more.")
    if done.tokens < flags.num_eval_tokens:
        print(f"the texts end after {done.tokens:,} of {flags.num_eval_tokens:,} tokens")
    print(f"perplexity {done.perplexity:.4f} over {done.tokens:,} tokens; report: {run.out / 'report.json'}")


def _config(flags: argparse.Namespace, tokenizer: Any, model_config: Any) -> SepConfig:
    """The rule that the flags ask for. Raises SettingsError where they contradict each other."""
    if not flags.enable_kv_cache_manager:
        if flags.enable_SepLLM or flags.enable_StreamingLLM:
            raise SettingsError(
                "--enable_SepLLM and --enable_StreamingLLM say what a full cache keeps: add --enable_kv_cache_manager."
            )
        return SepConfig(mode="full")
    if flags.enable_SepLLM == flags.enable_StreamingLLM:
        raise SettingsError("--enable_kv_cache_manager needs one of --enable_SepLLM and --enable_StreamingLLM.")
    sizes: dict[str, Any] = {"init_tokens": flags.init_cache_size, "capacity": flags.cache_size}
    if flags.enable_StreamingLLM:
        window = flags.cache_size - flags.init_cache_size if flags.local_size is None else flags.local_size
        return SepConfig(mode="streaming", window=window, **sizes)
    window = 224 if flags.local_size is None else flags.local_size
    return SepConfig(
        separators=_separators(flags, tokenizer, model_config),
        max_separators=flags.sep_cache_size,
        window=window,
        **sizes,
    )


def _separators(flags: argparse.Namespace, tokenizer: Any, model_config: Any) -> list[int]:
    from sepllm.attention.separators import separator_ids, tokenizer_encoder

    if flags.separator_token_ids:
        return [int(token) for token in flags.separator_token_ids]
    if flags.separators:
        return separator_ids(tokenizer_encoder(tokenizer), flags.separators.encode().decode("unicode_escape"))
    from sepllm.cache.presets import preset_for

    config = model_config.get_text_config()
    return list(preset_for(config.model_type, config.vocab_size).separators)


def _positions(flags: argparse.Namespace) -> bool | str:
    return "text" if flags.text_positions else flags.enable_pos_shift


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def _block(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_name_or_path", required=True, metavar="MODEL", help="folder, or name on the Hugging Face hub")
    add("--dataset_name", required=True, metavar="DATA", help="file or folder (.txt, .jsonl, .parquet), or hub name")
    add("--task", metavar="NAME", help="configuration of a hub data set")
    add("--split", default="test", help="split of a hub data set (default: test)")
    add("--text_key", default="text", metavar="KEY", help="column or JSON key of the text (default: text)")
    add("--num_samples", type=int, metavar="N", help="documents read at most (default: all)")
    add("--num_eval_tokens", type=int, default=20480, metavar="N", help="tokens scored (default: 20480)")
    add("--output_dir", required=True, metavar="DIR", help="folder to write")
    add("--resume", action="store_true", help="go on with the run in --output_dir, also to a larger number of tokens")
    add("--init_cache_size", "--initial_size", type=int, default=4, metavar="A", help="initial tokens (default: 4)")
    add("--sep_cache_size", type=int, default=64, metavar="S", help="newest separators kept (default: 64)")
    add("--local_size", "--neighboring_size", type=int, metavar="W", help="newest tokens kept (default: 224, or C - A)")
    add("--cache_size", type=int, default=324, metavar="C", help="tokens cached at most (default: 324)")
    for name, text in (
        (("--enable_kv_cache_manager",), "evict from the cache"),
        (("--enable_SepLLM", "--enable_segmented_LLM"), "keep initial tokens, separators and the window"),
        (("--enable_StreamingLLM",), "keep initial tokens and the window"),
        (("--enable_pos_shift",), "positions are places in the cache"),
    ):
        add(*name, nargs="?", const=True, default=False, type=_switch, metavar="true|false", help=text)
    add("--text_positions", action="store_true", help="positions are those of the text")
    add("--separators", metavar="CHARACTERS", help="each a token of its own, for example '.,?!;: \\t\\n'")
    add("--separator_token_ids", nargs="+", type=int, metavar="ID", help="default: those known for the model")
    add("--schedule", choices=["lazy", "every_token"], default="lazy", help="when the cache is cut (default: lazy)")
    add("--block", type=_block, default="auto", metavar="N", help="tokens of a forward; 1: one by one (default: auto)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16", "float64"], default="auto", help="of the model")
    add("--device", metavar="NAME", help="default: cuda where there is one, else cpu")
    add("--trust_remote_code", action="store_true", help="run code that the model folder brings")
    return parser


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main)
