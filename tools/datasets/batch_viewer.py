"""Show the batches of any training steps, decoded: as text, as an HTML page, or as an array of ids.

python tools/datasets/batch_viewer.py config.yml --start_iteration 1000 --end_iteration 1001 --save_path batches.html
python tools/datasets/batch_viewer.py pile/document --start_iteration 0 --end_iteration 9 --save_path token_indicies
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

# Runs from a plain clone, without installation.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from megatron.data.batch_pages import Sample, as_html, as_text
from megatron.data.indexed_dataset import IndexedDataset
from megatron.errors import DataError, SettingsError
from megatron.launcher.entry import run_main
from megatron.tokenizer.tokenizer import TOKENIZER_TYPES, Tokenizer, build_tokenizer

_EPILOG = """\
With settings files, iteration i is the batch of step i + 1 of a run that trains from the start with these settings:
samples [i * batch, (i + 1) * batch). With the path of a data set, i is its sequence i, as in the preshuffled Pile
(batch b of Pythia is sequences 1024 b to 1024 b + 1023). --end_iteration is shown too. What is written goes by the name
of --save_path: .html, .txt, .npy (ids), and any other name is a folder for indicies.npy, as Pythia's viewer makes.
exit codes: 0 done, 2 usage or settings, 3 data missing, damaged, or not that long."""


def main() -> None:
    """Parse the flags, read, show or write."""
    flags = _parser().parse_args()
    last = flags.start_iteration if flags.end_iteration is None else flags.end_iteration
    if not 0 <= flags.start_iteration <= last:
        raise SettingsError(
            f"--start_iteration {flags.start_iteration}, --end_iteration {last}: expected 0 <= start <= end."
        )
    has_settings = Path(flags.load_path[0]).suffix in (".yml", ".yaml")
    samples, tokenizer = (_of_settings if has_settings else _of_data_set)(flags, last)
    if flags.save_path is None:
        for line in as_text(samples, tokenizer, flags.tokens):
            print(line)
        return
    path = Path(flags.save_path)
    title = f"{flags.load_path[-1]}, iterations {flags.start_iteration} to {last}"
    _write(path, list(samples), tokenizer, flags.tokens, title)


def _of_settings(flags: argparse.Namespace, last: int) -> tuple[Iterator[Sample], Tokenizer | None]:
    """Samples of training, validation or test as a run reads them."""
    from megatron.data.from_args import datasets_from_args
    from megatron.neox_arguments.load import load_arguments

    args = load_arguments(flags.load_path, flags.set)
    tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
    source = datasets_from_args(args, tokenizer).require(flags.split).source
    batch = args.derived.train_batch_size

    def samples() -> Iterator[Sample]:
        for step in range(flags.start_iteration, last + 1):
            positions = np.arange(step * batch, (step + 1) * batch)
            if flags.rows is not None:
                positions = positions[: flags.rows]
            parts, numbers = source.locate(positions)
            text, labels = source.read(positions)
            for row, (part, number) in enumerate(zip(parts, numbers, strict=True)):
                prefix = source.parts[part].stream.dataset.prefix
                yield Sample(step, row, f"sample {number} of {prefix}", text[row], labels[row])

    return samples(), tokenizer


def _of_data_set(flags: argparse.Namespace, last: int) -> tuple[Iterator[Sample], Tokenizer | None]:
    """Sequences of a data set in the order of the file."""
    dataset = IndexedDataset(flags.load_path[0])
    if last >= dataset.num_sequences:
        raise DataError(f"{dataset.prefix}: has sequences 0 to {dataset.num_sequences - 1}, asked for {last}.")
    tokenizer = None
    if flags.tokenizer_type:
        tokenizer = build_tokenizer(flags.tokenizer_type, flags.vocab_file, flags.merge_file)

    def samples() -> Iterator[Sample]:
        for number in range(flags.start_iteration, last + 1):
            ids = dataset.sequence(number).astype(np.int64)
            yield Sample(number, 0, f"sequence {number} of {dataset.prefix}", ids, ids)

    return samples(), tokenizer


def _write(path: Path, samples: list[Sample], tokenizer: Tokenizer | None, tokens: int | None, title: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".html", ".htm"):
            path.write_text(as_html(samples, tokenizer, tokens, title), encoding="utf-8")
        elif path.suffix == ".txt":
            path.write_text("\n".join(as_text(samples, tokenizer, tokens)) + "\n", encoding="utf-8")
        else:
            if path.suffix != ".npy":
                path.mkdir(exist_ok=True)
                path = path / "indicies.npy"  # the name that Pythia's viewer gives it
            _save_ids(path, samples)
    except OSError as error:
        raise DataError(f"{path}: cannot write it: {error}.") from error
    print(f"wrote {path}: {len(samples)} samples")


def _save_ids(path: Path, samples: list[Sample]) -> None:
    lengths = {len(sample.text) for sample in samples}
    if len(lengths) > 1:
        raise DataError(f"sequences of {min(lengths)} to {max(lengths)} tokens make no array; write .txt or .html.")
    ids = np.stack([sample.text for sample in samples])
    np.save(path, ids.astype(np.uint16) if ids.max(initial=0) < 65536 else ids.astype(np.int32))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("load_path", nargs="+", help="settings files (.yml), or one data set without .bin or .idx")
    parser.add_argument("--start_iteration", type=int, default=0, help="first (0)")
    parser.add_argument("--end_iteration", type=int, help="last, shown too (the first)")
    parser.add_argument("--save_path", metavar="PATH", help="write .html, .txt, .npy or a folder; else to the screen")
    parser.add_argument("--tokens", type=int, metavar="N", help="only the first N tokens of each sample")
    parser.add_argument("--rows", type=int, metavar="N", help="only the first N samples of each batch")
    parser.add_argument("--split", default="train", choices=["train", "valid", "test"], help="with settings (train)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    tokens = parser.add_argument_group("tokenizer of a data set (settings name their own)")
    tokens.add_argument("--tokenizer-type", choices=list(TOKENIZER_TYPES))
    tokens.add_argument("--vocab-file")
    tokens.add_argument("--merge-file")
    return parser


if __name__ == "__main__":
    run_main(main)
