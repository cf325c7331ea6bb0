"""The training, validation and test sets that the settings describe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron.data.batch import Batch
from megatron.data.fingerprint import manifest_fingerprint
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.loader import batches
from megatron.data.order import SampleOrder
from megatron.data.samples import SampleStream
from megatron.data.source import Part, SampleSource
from megatron.data.splits import SET_NAMES, parse_split, split_borders
from megatron.errors import DataError, SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class DataSet:
    """One of the three sets.

    manifest: JSON-able description of data and order (file hashes, document ranges, weights, seed, seq_length).
    fingerprint: sha256 of it; equal fingerprints mean the same sample at the same position.
    """

    name: str
    source: SampleSource
    manifest: dict[str, Any]
    eod: int | None

    @property
    def num_samples(self) -> int:
        """Samples before any comes a second time, if all parts were read evenly: the sum over the parts."""
        return self.source.num_samples

    @property
    def fingerprint(self) -> str:
        return manifest_fingerprint(self.manifest)

    def batches(self, *, consumed_samples: int, micro_batch_size: int, dp_rank: int, dp_size: int) -> Iterator[Batch]:
        """Endless micro-batches of one data-parallel rank, see `megatron.data.loader.batches`."""
        return batches(
            self.source,
            consumed_samples=consumed_samples,
            micro_batch_size=micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
            eod=self.eod,
        )

    def describe(self) -> str:
        """One line a part: where from, documents, tokens, samples, share."""
        lines = []
        for part, weight in zip(self.source.parts, self.source.blend.weights, strict=True):
            stream = part.stream
            documents = f"documents {stream.first_document} to {stream.last_document - 1}"
            share = f", share {weight / self.source.blend.period:.2%}" if len(self.source.parts) > 1 else ""
            lines.append(
                f"{self.name}: {stream.dataset.prefix}, {documents}, "
                f"{stream.num_tokens:,} tokens, {len(stream):,} samples of {stream.seq_length}{share}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Datasets:
    """The three sets; valid and test are None where there is too little data for them, and `notes` says why."""

    train: DataSet
    valid: DataSet | None
    test: DataSet | None
    notes: tuple[str, ...] = field(default=())

    def require(self, name: str) -> DataSet:
        """The set `name` ("train", "valid", "test"); DataError with the reason where there is none."""
        found = getattr(self, name)
        if found is None:
            reasons = [note for note in self.notes if note.startswith(f"{name}:")]
            raise DataError(" ".join(reasons) or f"{name}: no data.")
        return found


def datasets_from_args(args: NeoXArgs, tokenizer: Tokenizer | int) -> Datasets:
    """Open everything the settings name.

    tokenizer: or the vocabulary size alone, when no end-of-document id is needed. DataError for training data that
    are missing, damaged or shorter than one sample, and for validation or test lists of which this is true.
    """
    vocab_size = tokenizer if isinstance(tokenizer, int) else tokenizer.vocab_size
    eod = None
    if args.eod_mask_loss:
        if isinstance(tokenizer, int):
            raise SettingsError("eod_mask_loss needs the tokenizer, which knows the end-of-document id.")
        eod = tokenizer.eod
    maker = _Maker(args, vocab_size, eod)
    if args.data_path is not None:
        return maker.split_one(args.data_path)
    if not args.train_data_paths:
        raise SettingsError("No training data: set data_path (with split), or train_data_paths.")
    return maker.from_lists()


class _Maker:
    def __init__(self, args: NeoXArgs, vocab_size: int, eod: int | None) -> None:
        self.args, self.vocab_size, self.eod = args, vocab_size, eod
        self.hashes: dict[IndexedDataset, dict[str, str]] = {}

    def split_one(self, prefix: str) -> Datasets:
        """Three ranges of one data set. Too little for validation or test is a note, not an error."""
        args, dataset = self.args, self._open(prefix)
        borders = split_borders(args.split, dataset.num_documents)
        sets: dict[str, DataSet | None] = {}
        notes = []
        for name, share, first, last in zip(SET_NAMES, parse_split(args.split), borders, borders[1:], strict=False):
            try:
                stream = SampleStream(dataset, first, last, args.seq_length)
            except DataError as error:
                sets[name] = None
                if share > 0:
                    notes.append(
                        f"{name}: no samples; split {args.split!r} of {dataset.num_documents} documents: {error}"
                    )
                else:
                    notes.append(f"{name}: split {args.split!r} gives it no documents.")
            else:
                sets[name] = self._set(name, [stream], [1.0], [None])
        if sets["train"] is None:
            raise DataError(next(note for note in notes if note.startswith("train")))
        return Datasets(sets["train"], sets["valid"], sets["test"], tuple(notes))

    def from_lists(self) -> Datasets:
        """A list of prefixes for each set, with weights and label files of their own."""
        args = self.args
        lists = {
            "train": (args.train_data_paths, args.train_data_weights, args.train_label_data_paths),
            "valid": (args.valid_data_paths, args.valid_data_weights, args.valid_label_data_paths),
            "test": (args.test_data_paths, args.test_data_weights, args.test_label_data_paths),
        }
        sets: dict[str, DataSet] = {}
        notes = []
        for name, (prefixes, weights, label_prefixes) in lists.items():
            if not prefixes:
                notes.append(f"{name}: no {name}_data_paths given.")
                continue
            streams = []
            for prefix in prefixes:
                dataset = self._open(prefix)
                streams.append(SampleStream(dataset, 0, dataset.num_documents, args.seq_length))
            if args.weight_by_num_documents:
                weights = [stream.dataset.num_documents**args.weighted_sampler_alpha for stream in streams]
            labels = [self._open(prefix) for prefix in label_prefixes] if label_prefixes else [None] * len(prefixes)
            sets[name] = self._set(name, streams, weights or [1.0] * len(prefixes), labels)
            if name != "train" and (shared := sorted(set(prefixes) & set(args.train_data_paths or ()))):
                notes.append(f"{name}: {', '.join(shared)} is training data too; its loss says nothing of new text.")
        return Datasets(sets["train"], sets.get("valid"), sets.get("test"), tuple(notes))

    def _open(self, prefix: str) -> IndexedDataset:
        dataset = IndexedDataset(prefix)
        if self.args.mmap_warmup:
            dataset.warm_up()
        return dataset

    def _set(
        self,
        name: str,
        streams: Sequence[SampleStream],
        weights: Sequence[float],
        labels: Sequence[IndexedDataset | None],
    ) -> DataSet:
        seed = self.args.seed
        orders = [SampleOrder(len(stream), seed, f"{name}/{number}") for number, stream in enumerate(streams)]
        parts = [Part(*fields) for fields in zip(streams, orders, labels, strict=True)]
        source = SampleSource(parts, weights, vocab_size=self.vocab_size)
        manifest = {
            "set": name,
            "seed": seed,
            "seq_length": self.args.seq_length,
            "parts": [
                {
                    "weight": weight,
                    "documents": [part.stream.first_document, part.stream.last_document],
                    "text": self._hashes(part.stream.dataset),
                    "labels": self._hashes(part.labels) if part.labels else None,
                }
                for part, weight in zip(parts, source.blend.weights, strict=True)
            ],
        }
        return DataSet(name, source, manifest, self.eod)

    def _hashes(self, dataset: IndexedDataset) -> dict[str, str]:
        if dataset not in self.hashes:
            self.hashes[dataset] = dataset.fingerprints()
        return self.hashes[dataset]
