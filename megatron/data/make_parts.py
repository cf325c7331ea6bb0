"""One data set, a range of it and the options -> a part of a mixture: its samples, their order, their labels."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron.data.document_rows import DocumentRows
from megatron.data.fixed_order import InOrder, StoredOrder
from megatron.data.fixed_rows import FixedRows
from megatron.data.index_cache import ArrayWriter, IndexCache
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.mixtures import StoredBlend, write_blend
from megatron.data.neox_order import write_packed_index
from megatron.data.order import SampleOrder
from megatron.data.packing import usable_documents, write_neox_packing, write_packing
from megatron.data.samples import SampleStream, check_range
from megatron.data.source import Part
from megatron.errors import DataError


@dataclass(frozen=True)
class PartOptions:
    """How documents become samples, and their order; the names and values of the settings.

    cache: where index arrays are kept, for the kinds that need any.
    """

    data_kind: str
    data_order: str
    pack_impl: str
    allow_chopped: bool
    seq_length: int
    seed: int
    cache: IndexCache

    @property
    def counts_sequences(self) -> bool:
        """Whether ranges are of sequences (GPT-NeoX knows no documents, preshuffled sets have none)."""
        return self.data_kind == "rows" or self.data_order == "neox"

    def units(self, dataset: IndexedDataset) -> int:
        """What a split divides: documents, or sequences."""
        return dataset.num_sequences if self.counts_sequences else dataset.num_documents

    def as_manifest(self) -> dict[str, Any]:
        """What differs from the plain kind, for the fingerprint of a set."""
        chosen = {"data_kind": self.data_kind, "data_order": self.data_order, "pack_impl": self.pack_impl}
        plain = {"data_kind": "documents", "data_order": "computed", "pack_impl": "packed"}
        if self.pack_impl != "packed" and not self.allow_chopped:
            chosen["allow_chopped"] = "false"
        return {key: value for key, value in chosen.items() if value != plain.get(key)}


def make_part(
    dataset: IndexedDataset,
    labels: IndexedDataset | None,
    documents: tuple[int, int],
    options: PartOptions,
    *,
    name: str,
    num_samples: int,
    hashes: dict[str, Any],
) -> Part:
    """Samples of documents [first, last), see `PartOptions.units`.

    name: "train/0" and the like, part of the seed of our order. num_samples: how many GPT-NeoX would build; ours does
    not depend on it. hashes: of the files, for the cache. DataError when not one sample can be made.
    """
    try:
        if options.data_kind == "rows":
            rows = FixedRows(dataset, *documents, options.seq_length)
            return Part(rows, InOrder(len(rows)), labels)
        if options.data_order == "neox":
            return _neox_part(dataset, labels, documents, options, name, num_samples, hashes)
        if options.pack_impl == "packed":
            stream = SampleStream(dataset, *documents, options.seq_length)
            return Part(stream, SampleOrder(len(stream), options.seed, name), labels)
        packed = _packed_documents(dataset, labels, documents, options, hashes)
        return Part(packed, SampleOrder(len(packed), options.seed, name), labels)
    except DataError as error:
        known = str(error).startswith(str(dataset.prefix))
        raise error if known else DataError(f"{dataset.prefix}: {error}") from error


def stored_blend(shares: list[float], size: int, cache: IndexCache, name: str) -> StoredBlend:
    """GPT-NeoX's mixture of these shares for `size` samples."""

    def build(writer: ArrayWriter) -> None:
        write_blend(writer, shares, size)

    arrays = cache.arrays(f"mixture of {name}", {"kind": "blend", "shares": shares, "size": size}, build)
    return StoredBlend(shares, arrays["sets"], arrays["counts"])


def _packed_documents(
    dataset: IndexedDataset,
    labels: IndexedDataset | None,
    documents: tuple[int, int],
    options: PartOptions,
    hashes: dict[str, Any],
) -> DocumentRows:
    check_range(dataset, *documents)
    length, chopped = options.seq_length, options.allow_chopped

    def build(writer: ArrayWriter) -> None:
        lengths = dataset.document_spans(np.arange(*documents))[1]
        usable = usable_documents(
            lengths, documents[0], length, chopped, labels, None if labels is None else labels.document_spans
        )
        write_packing(writer, usable, lengths[usable - documents[0]], options.pack_impl, length + 1)

    description = {"data": hashes, "documents": list(documents), "seq_length": length, "allow_chopped": chopped}
    arrays = options.cache.arrays(f"{dataset.prefix}", {"kind": options.pack_impl, **description}, build)
    return DocumentRows(
        dataset, length, arrays["documents"], arrays["starts"], dataset.document_spans, 0, options.pack_impl
    )


def _neox_part(
    dataset: IndexedDataset,
    labels: IndexedDataset | None,
    documents: tuple[int, int],
    options: PartOptions,
    name: str,
    num_samples: int,
    hashes: dict[str, Any],
) -> Part:
    check_range(dataset, *documents, dataset.num_sequences)
    first, last = documents
    length, seed = options.seq_length, options.seed

    def build(writer: ArrayWriter) -> None:
        if options.pack_impl == "packed":
            write_packed_index(writer, dataset.sizes, documents, seq_length=length, seed=seed, num_samples=num_samples)
            return
        usable = usable_documents(
            dataset.sizes[first:last],
            first,
            length,
            options.allow_chopped,
            labels,
            None if labels is None else labels.sequence_spans,
        )
        write_neox_packing(
            writer,
            usable,
            dataset.sizes,
            documents,
            options.pack_impl,
            seq_length=length,
            seed=seed,
            num_samples=num_samples,
        )

    description = {
        "kind": f"neox {options.pack_impl}",
        "data": hashes,
        "sizes": _hash(dataset.sizes[first:last]),
        "documents": [first, last],
        "seq_length": length,
        "seed": seed,
        "samples": num_samples,
        "allow_chopped": options.allow_chopped,
    }
    arrays = options.cache.arrays(f"{dataset.prefix} ({name})", description, build)
    rows = DocumentRows(
        dataset,
        length,
        arrays["doc_idx"],
        arrays["sample_idx"],
        dataset.sequence_spans,
        1,
        f"GPT-NeoX's order of {options.pack_impl} sequences {first} to {last - 1}",
    )
    return Part(rows, StoredOrder(arrays["shuffle_idx"]), labels)


def _hash(values: np.ndarray) -> str:
    """sha256 (hex) of all of them: the arrays of an index follow from the sizes alone."""
    return hashlib.sha256(values.data.cast("B") if len(values) else b"").hexdigest()
