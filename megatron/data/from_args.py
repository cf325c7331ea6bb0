"""The training, validation and test sets that the settings describe."""

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megatron.data.batch import Batch
from megatron.data.blend import Blend, Mixture
from megatron.data.fingerprint import manifest_fingerprint
from megatron.data.index_cache import IndexCache
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.kernels import NO_HELPER, helper
from megatron.data.loader import batches, first_batches
from megatron.data.make_parts import PartOptions, make_part, stored_blend
from megatron.data.mixtures import ChangingBlend
from megatron.data.neox_order import samples_to_build, shares_and_samples
from megatron.data.skipping import Skip, SkippingSource
from megatron.data.source import Part, SampleSource
from megatron.data.splits import SET_NAMES, parse_split, rounded_borders, split_borders
from megatron.data.tokenizer_record import check_record
from megatron.errors import DataError, SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer

LOOK_FOR_ENDS = 1 << 20  # tokens in which an end of document is expected


@dataclass(frozen=True)
class DataSet:
    """One of the three sets, or a named validation set.

    manifest: JSON-able description of data and order (file hashes, document ranges, weights, seed, seq_length).
    fingerprint: sha256 of it; equal fingerprints mean the same sample at the same position.
    workers: processes that read ahead of training; 0 reads when asked.
    masked: whether some predictions may not count (label files, eod_mask_loss, padded samples).
    """

    name: str
    source: SampleSource
    manifest: dict[str, Any]
    eod: int | None
    workers: int = 0
    masked: bool = True

    @property
    def num_samples(self) -> int:
        """Samples before any comes a second time, if all parts were read evenly: the sum over the parts."""
        return self.source.num_samples

    @property
    def fingerprint(self) -> str:
        return manifest_fingerprint(self.manifest)

    def batches(
        self,
        *,
        consumed_samples: int,
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
        skip: Skip | None = None,
    ) -> Generator[Batch, None, None]:
        """Endless micro-batches of one data-parallel rank, see `megatron.data.loader.batches`.

        skip: positions that never come; consumed_samples does not count them.
        """
        return batches(
            SkippingSource(self.source, skip) if skip is not None and skip.ranges else self.source,
            seq_length=self.source.seq_length,
            consumed_samples=consumed_samples,
            micro_batch_size=micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
            eod=self.eod,
            workers=self.workers,
        )

    def first_batches(
        self, num_samples: int, *, micro_batch_size: int, dp_rank: int, dp_size: int
    ) -> Generator[Batch, None, None]:
        """The first num_samples samples, each once, see `megatron.data.loader.first_batches`."""
        return first_batches(
            self.source,
            seq_length=self.source.seq_length,
            num_samples=num_samples,
            micro_batch_size=micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
            eod=self.eod,
        )

    def describe(self) -> str:
        """One line a part: where from, documents, tokens, samples, share."""
        lines = []
        for part, share in zip(self.source.parts, self.source.blend.shares, strict=True):
            says = f", share {share:.2%}" if len(self.source.parts) > 1 else ""
            lines.append(f"{self.name}: {part.stream.dataset.prefix}, {part.stream.describe()}{says}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Datasets:
    """The three sets; valid and test are None where there is too little data for them, and `notes` says why.

    named: the sets of `validation_sets`, under their names.
    """

    train: DataSet
    valid: DataSet | None
    test: DataSet | None
    notes: tuple[str, ...] = field(default=())
    named: dict[str, DataSet] = field(default_factory=dict)

    def validation(self) -> Iterator[tuple[str, DataSet]]:
        """(name, set) of all that is evaluated during training: "validation", then the named sets."""
        if self.valid is not None:
            yield "validation", self.valid
        yield from self.named.items()

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
    maker = _Maker(args, vocab_size, eod, None if isinstance(tokenizer, int) else tokenizer)
    if args.data_path is None and not args.train_data_paths:
        raise SettingsError("No training data: set data_path (with split), or train_data_paths.")
    three = maker.split_one(args.data_path) if args.data_path is not None else maker.from_lists()
    return replace(three, named=maker.named(), notes=tuple(maker.notes))


class _Maker:
    def __init__(self, args: NeoXArgs, vocab_size: int, eod: int | None, tokenizer: Tokenizer | None) -> None:
        self.args, self.vocab_size, self.eod, self.tokenizer = args, vocab_size, eod, tokenizer
        self.hashes: dict[IndexedDataset, dict[str, str]] = {}
        self.notes: list[str] = []
        if args.data_order == "neox" and helper() is None:
            self.notes.append(NO_HELPER)
        self.options = PartOptions(
            data_kind=args.data_kind,
            data_order=args.data_order,
            pack_impl=args.pack_impl,
            allow_chopped=args.allow_chopped,
            seq_length=args.seq_length,
            seed=args.seed,
            cache=IndexCache(cache_folder(args.data_cache_path), logging.getLogger(__name__).info),
        )
        derived = args.derived
        iters, batch_size = derived.planned_iters or 0, derived.train_batch_size
        self.wanted = samples_to_build(iters, args.eval_interval, args.eval_iters, batch_size)
        if derived.planned_iters is not None:
            self.wanted["train"] = derived.batch_plan.samples(iters)
        self.wanted |= dict.fromkeys(args.validation_sets or (), self.wanted["test"])

    def split_one(self, prefix: str) -> Datasets:
        """Three ranges of one data set. Too little for validation or test is a note, not an error."""
        args, dataset = self.args, self._open(prefix)
        units = self.options.units(dataset)
        shares = parse_split(args.split)
        borders = rounded_borders(shares, units) if args.data_order == "neox" else split_borders(args.split, units)
        sets: dict[str, DataSet | None] = {}
        for name, share, first, last in zip(SET_NAMES, shares, borders, borders[1:], strict=False):
            if first == last and share == 0:
                sets[name] = None
                self.notes.append(f"{name}: split {args.split!r} gives it no documents.")
                continue
            try:
                part = self._part(dataset, None, (first, last), name, name, self.wanted[name])
            except DataError as error:
                sets[name] = None
                self.notes.append(f"{name}: no samples; split {args.split!r} of {units} documents: {error}")
            else:
                sets[name] = self._set(name, [part], Blend([1.0]), [(first, last)])
        if sets["train"] is None:
            raise DataError(next(note for note in self.notes if note.startswith("train")))
        return Datasets(sets["train"], sets["valid"], sets["test"], tuple(self.notes))

    def from_lists(self) -> Datasets:
        """A list of prefixes for each set, with weights and label files of their own."""
        args = self.args
        lists = {
            "train": (args.train_data_paths, args.train_data_weights, args.train_label_data_paths),
            "valid": (args.valid_data_paths, args.valid_data_weights, args.valid_label_data_paths),
            "test": (args.test_data_paths, args.test_data_weights, args.test_label_data_paths),
        }
        sets: dict[str, DataSet] = {}
        for name, (prefixes, weights, label_prefixes) in lists.items():
            if not prefixes:
                if not (name == "valid" and args.validation_sets):
                    self.notes.append(f"{name}: no {name}_data_paths given.")
                continue
            datasets = [self._open(prefix) for prefix in prefixes]
            labels = [self._open(prefix) for prefix in label_prefixes] if label_prefixes else [None] * len(prefixes)
            sets[name] = self._mixed(name, datasets, labels, self._weights(datasets, weights))
            if name != "train":
                self._compare_with_training(name, prefixes)
        return Datasets(sets["train"], sets.get("valid"), sets.get("test"), tuple(self.notes))

    def named(self) -> dict[str, DataSet]:
        """The sets of validation_sets, each of one prefix, whole."""
        sets = {}
        for name, prefix in (self.args.validation_sets or {}).items():
            dataset = self._open(prefix)
            label_prefix = (self.args.validation_label_sets or {}).get(name)
            labels = self._open(label_prefix) if label_prefix else None
            documents = (0, self.options.units(dataset))
            part = self._part(dataset, labels, documents, f"named/{name}", f"named_{name}", self.wanted[name])
            sets[name] = self._set(name, [part], Blend([1.0]), [documents])
            self._compare_with_training(name, [prefix])
        return sets

    def _compare_with_training(self, name: str, prefixes: Sequence[str]) -> None:
        training = {*(self.args.train_data_paths or ()), self.args.data_path}
        if shared := sorted(set(prefixes) & training):
            self.notes.append(f"{name}: {', '.join(shared)} is training data too; its loss says nothing of new text.")

    def _weights(self, datasets: Sequence[IndexedDataset], given: Sequence[float] | None) -> Sequence[float]:
        alpha = self.args.weighted_sampler_alpha
        if self.args.weight_by_num_documents:
            return [dataset.num_documents**alpha for dataset in datasets]
        if self.args.weight_by_num_tokens:
            return [dataset.num_tokens**alpha for dataset in datasets]
        return given or [1.0] * len(datasets)

    def _mixed(
        self,
        name: str,
        datasets: Sequence[IndexedDataset],
        labels: Sequence[IndexedDataset | None],
        weights: Sequence[float],
    ) -> DataSet:
        wanted = self.wanted[name]
        shares, counts = shares_and_samples(weights, wanted)
        ranges = [(0, self.options.units(dataset)) for dataset in datasets]
        parts = [
            self._part(dataset, label, documents, f"{name}/{number}", f"{name}_{number}", count)
            for number, (dataset, label, documents, count) in enumerate(
                zip(datasets, labels, ranges, counts, strict=True)
            )
        ]
        blend: Mixture
        changes = self.args.train_data_weight_changes if name == "train" else None
        if self.args.data_order == "neox":
            blend = stored_blend(shares, wanted, self.options.cache, name)
        elif changes:
            blend = ChangingBlend([(0, weights), *((change.samples, change.weights) for change in changes)])
        else:
            blend = Blend(weights)
        return self._set(name, parts, blend, ranges)

    def _part(
        self,
        dataset: IndexedDataset,
        labels: IndexedDataset | None,
        documents: tuple[int, int],
        seed_name: str,
        neox_name: str,
        num_samples: int,
    ) -> Part:
        neox = self.options.data_order == "neox"
        hashes = {"text": self._hashes(dataset), "labels": self._hashes(labels) if labels else None}
        return make_part(
            dataset,
            labels,
            documents,
            self.options,
            name=neox_name if neox else seed_name,
            num_samples=num_samples,
            hashes=hashes,
        )

    def _open(self, prefix: str) -> IndexedDataset:
        dataset = IndexedDataset(prefix)
        if self.tokenizer is not None:
            check_record(prefix, self.tokenizer)
        if self.args.mmap_warmup:
            dataset.warm_up()
        return dataset

    def _set(self, name: str, parts: Sequence[Part], blend: Mixture, ranges: Sequence[tuple[int, int]]) -> DataSet:
        source = SampleSource(parts, blend, vocab_size=self.vocab_size)
        if name == "train":
            self._look_ahead(parts, blend)
        weights = blend.weights if isinstance(blend, Blend) else blend.shares
        manifest = {
            "set": name,
            "seed": self.args.seed,
            "seq_length": self.args.seq_length,
            "parts": [
                {
                    "weight": weight,
                    "documents": list(documents),
                    "text": self._hashes(part.stream.dataset),
                    "labels": self._hashes(part.labels) if part.labels else None,
                }
                for part, weight, documents in zip(parts, weights, ranges, strict=True)
            ],
            **self.options.as_manifest(),
        }
        if self.args.data_order == "neox":
            manifest["samples"] = self.wanted[name]
        if isinstance(blend, ChangingBlend):
            manifest["changes"] = blend.as_manifest()
        workers = self.args.num_workers if name == "train" else 0
        masked = self.eod is not None or self.args.pack_impl != "packed" or any(part.labels for part in parts)
        return DataSet(name, source, manifest, self.eod, workers, masked)

    def _look_ahead(self, parts: Sequence[Part], blend: Mixture) -> None:
        """Notes on what the run will meet; DataError now where data in a fixed order would end before the run."""
        for part in parts:
            self._look_for_ends(part.stream.dataset)
        if not isinstance(blend, Blend | ChangingBlend) or self.args.data_order == "neox":
            return  # GPT-NeoX's order is built for the length of the run
        for part, needed in zip(parts, blend.taken(self.wanted["train"]).tolist(), strict=True):
            prefix, size = part.stream.dataset.prefix, part.order.size
            if self.options.data_kind == "rows" and needed > size:
                raise DataError(
                    f"{prefix}: the run asks for {needed:,} samples of this set (train_iters times the batch, times "
                    f"its share), and it has {size:,}, which are not reshuffled. Lower train_iters."
                )
            if needed > size:
                self.notes.append(f"train: the run reads {needed / size:,.1f} epochs of {prefix}.")

    def _look_for_ends(self, dataset: IndexedDataset) -> None:
        masks = self.args.eod_mask_loss or self.args.attention_document_mask
        if self.tokenizer is None or not masks:
            return
        if not (dataset.tokens(0, min(dataset.num_tokens, LOOK_FOR_ENDS)) == self.tokenizer.eod).any():
            self.notes.append(
                f"train: no end of document (id {self.tokenizer.eod}) in the first tokens of {dataset.prefix}; masks "
                "that go by it mask nothing. Was it made with --append-eod?"
            )

    def _hashes(self, dataset: IndexedDataset) -> dict[str, str]:
        if dataset not in self.hashes:
            self.hashes[dataset] = dataset.fingerprints()
        return self.hashes[dataset]


def cache_folder(given: str | None) -> Path:
    """Where index arrays are kept: data_cache_path, or `sepllm/data_index` in the user's cache folder."""
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sepllm" / "data_index"
