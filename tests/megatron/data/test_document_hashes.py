"""Stretches cover every document once; equal documents, and only they, have equal hashes."""

import itertools
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.document_hashes import SHORT, document_hashes, spans_of_documents
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter

documents_strategy = st.lists(st.lists(st.lists(st.integers(0, 1), max_size=12), max_size=2), max_size=12)


@settings(max_examples=60)
@given(documents_strategy, st.integers(1, 40), st.data())
def test_spans_and_hashes(tmp_path: Path, documents: list, span_bytes: int, data: st.DataObject) -> None:
    with IndexedDatasetWriter(tmp_path / "set", dtype="uint16") as writer:
        for sequences in documents:
            writer.add_sequences(sequences)
    dataset = IndexedDataset(tmp_path / "set")
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(documents))] * 2)))
    found = []
    for number, tokens, borders in spans_of_documents(dataset, first, last, span_bytes):
        assert number == first + len(found)
        found += [tokens[start:end].tolist() for start, end in itertools.pairwise(borders)]
    flat = [[i for sequence in sequences for i in sequence] for sequences in documents]
    assert found == flat[first:last]
    hashes = document_hashes(dataset, 0, len(documents)).tolist()
    for one, its_hash in zip(flat, hashes, strict=True):
        assert (its_hash == 0) == (len(one) < SHORT)
        for other, other_hash in zip(flat, hashes, strict=True):
            if its_hash and other_hash:
                assert (its_hash == other_hash) == (one == other)


def test_types_do_not_matter(tmp_path: Path) -> None:
    for kind in ("uint16", "int32"):
        with IndexedDatasetWriter(tmp_path / kind, dtype=kind) as writer:
            writer.add_document(range(20))
    one, other = (document_hashes(IndexedDataset(tmp_path / kind), 0, 1) for kind in ("uint16", "int32"))
    assert one.tolist() == other.tolist()
