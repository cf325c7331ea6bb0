"""The three sets that settings describe: ranges, weights, notes, fingerprints, and mistakes that cost no time."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megatron.data.from_args import Datasets, datasets_from_args
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.data.tokenizer_record import write_record
from megatron.errors import DataError, SettingsError
from megatron.neox_arguments.batch_plan import BatchPlan
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.helpers.tiny_tokenizer import write_tokenizer_json
from tests.megatron.data import neox_goldens

SEQ = 8


def write(prefix: Path, documents: int, length: int = 40, shift: int = 0) -> str:
    with IndexedDatasetWriter(prefix, vocab_size=512) as writer:
        for number in range(documents):
            writer.add_document([(number * 7 + place + shift) % 250 + 1 for place in range(length - 1)] + [0])
    return str(prefix)


def settings(**given: Any) -> Any:
    """Only the settings that data need; the real object is tried in the tests of training."""
    values: dict[str, Any] = {"data_path": None, "split": "8,1,1", "weight_by_num_documents": False}
    for name in ("train", "valid", "test"):
        values |= {f"{name}_{kind}": None for kind in ("data_paths", "data_weights", "label_data_paths")}
    values |= {
        "weighted_sampler_alpha": 1.0,
        "seq_length": SEQ,
        "seed": 1,
        "eod_mask_loss": False,
        "mmap_warmup": False,
        "weight_by_num_tokens": False,
        "train_data_weight_changes": None,
        "data_kind": "documents",
        "data_order": "computed",
        "pack_impl": "packed",
        "allow_chopped": True,
        "data_cache_path": None,
        "num_workers": 0,
        "attention_document_mask": False,
        "train_iters": 10,
        "eval_interval": 5,
        "eval_iters": 1,
        "validation_sets": None,
        "validation_label_sets": None,
    }
    assert set(given) <= set(values)
    values |= given
    plan = BatchPlan(full=4, start=4)
    values["derived"] = SimpleNamespace(train_batch_size=4, planned_iters=values["train_iters"], batch_plan=plan)
    return SimpleNamespace(**values)


def open_sets(**given: Any) -> Datasets:
    return datasets_from_args(settings(**given), build_tokenizer("CharLevelTokenizer", None))


def test_split_of_one_set(tmp_path: Path) -> None:
    sets = open_sets(data_path=write(tmp_path / "set", 20))
    ranges = [found.manifest["parts"][0]["documents"] for found in (sets.train, sets.valid, sets.test) if found]
    assert ranges == [[0, 16], [16, 18], [18, 20]]
    assert sets.train.num_samples == (16 * 40 - 1) // SEQ
    assert sets.notes == ()
    line = sets.train.describe()
    for words in ("train:", "set", "documents 0 to 15", "640 tokens", "79 samples of 8"):
        assert words in line


def test_one_book_is_all_training_data_and_says_so(tmp_path: Path) -> None:
    sets = open_sets(data_path=write(tmp_path / "book", 1, 500), split="969, 30, 1")
    assert sets.train.num_samples == 499 // SEQ
    assert sets.valid is None
    assert sets.test is None
    assert [note.split(":")[0] for note in sets.notes] == ["valid", "test"]
    with pytest.raises(DataError, match=r"valid: no samples; split '969, 30, 1' of 1 documents"):
        sets.require("valid")
    assert sets.require("train") is sets.train


def test_too_little_training_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train: no samples.*5 tokens; one sample needs seq_length \+ 1 = 9"):
        open_sets(data_path=write(tmp_path / "tiny", 1, 5))
    with pytest.raises(DataError, match=r"train: split '0,1,1' gives it no documents"):
        open_sets(data_path=write(tmp_path / "set", 20), split="0,1,1")


def lists(tmp_path: Path, **given: Any) -> Datasets:
    a, b = write(tmp_path / "a", 30), write(tmp_path / "b", 10, shift=3)
    held_out = [write(tmp_path / "held_out", 5, shift=9)]
    given = {"train_data_paths": [a, b], "valid_data_paths": held_out, "test_data_paths": held_out} | given
    return open_sets(**given)


def test_lists_with_weights(tmp_path: Path) -> None:
    assert lists(tmp_path).train.source.blend.weights == (1, 1)
    assert lists(tmp_path, train_data_weights=[0.3, 0.1]).train.source.blend.weights == (3, 1)
    assert lists(tmp_path, weight_by_num_documents=True).train.source.blend.weights == (3, 1)
    flat = lists(tmp_path, weight_by_num_documents=True, weighted_sampler_alpha=0.0)
    assert flat.train.source.blend.weights == (1, 1)
    assert "share 75.00%" in lists(tmp_path, train_data_weights=[3, 1]).train.describe()


def test_each_list_goes_to_its_set(tmp_path: Path) -> None:
    names = {"train": "a", "valid": "held_out", "test": "last"}
    sets = lists(tmp_path, train_data_paths=[str(tmp_path / "a")], test_data_paths=[write(tmp_path / "last", 6)])
    for name, prefix in names.items():
        found = sets.require(name)
        assert found.name == name
        assert [part.stream.dataset.prefix.name for part in found.source.parts] == [prefix]


def test_weights_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    one, other = (lists(tmp_path, train_data_weights=weights) for weights in ([1, 2], [2, 1]))
    assert one.train.fingerprint != other.train.fingerprint
    assert lists(tmp_path, train_data_weights=[0.5, 1]).train.fingerprint == one.train.fingerprint


def test_validation_on_training_data_is_noted(tmp_path: Path) -> None:
    assert lists(tmp_path).notes == ()
    (note,) = lists(tmp_path, valid_data_paths=[str(tmp_path / "a")]).notes
    assert note.startswith("valid:")
    assert str(tmp_path / "a") in note


def test_short_validation_lists_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="short"):
        lists(tmp_path, valid_data_paths=[write(tmp_path / "short", 1, 4)])


def test_label_files(tmp_path: Path) -> None:
    text = write(tmp_path / "text", 4)
    with IndexedDatasetWriter(tmp_path / "label", dtype="int32") as writer:
        for _ in range(4):
            writer.add_document([-100] * 20 + [3] * 20)
    held_out = [write(tmp_path / "held_out", 5)]
    sets = open_sets(
        train_data_paths=[text],
        train_label_data_paths=[str(tmp_path / "label")],
        valid_data_paths=held_out,
        test_data_paths=held_out,
    )
    batch = next(sets.train.batches(consumed_samples=0, micro_batch_size=sets.train.num_samples, dp_rank=0, dp_size=1))
    assert 0 < batch.loss_mask.mean() < 1
    assert batch.labels[batch.loss_mask == 1].unique().tolist() == [3]


def test_loss_is_masked_after_end_of_document_on_request(tmp_path: Path) -> None:
    prefix = write(tmp_path / "set", 20)
    layout = {"consumed_samples": 0, "micro_batch_size": 60, "dp_rank": 0, "dp_size": 1}
    assert next(open_sets(data_path=prefix).train.batches(**layout)).loss_mask.min() == 1
    batch = next(open_sets(data_path=prefix, eod_mask_loss=True).train.batches(**layout))
    assert (batch.loss_mask == 0).sum() == (batch.tokens == 0).sum() > 0
    with pytest.raises(SettingsError, match="eod_mask_loss needs the tokenizer"):
        datasets_from_args(settings(data_path=prefix, eod_mask_loss=True), 512)


def test_fingerprint_changes_with_everything_that_changes_a_sample(tmp_path: Path) -> None:
    prefix = write(tmp_path / "set", 20)
    first = open_sets(data_path=prefix)
    assert open_sets(data_path=prefix, mmap_warmup=True).train.fingerprint == first.train.fingerprint
    others = [open_sets(data_path=prefix, **{key: value}) for key, value in (("seed", 2), ("split", "7,2,1"))]
    others.append(open_sets(data_path=write(tmp_path / "other", 20, shift=1)))
    others.append(open_sets(data_path=prefix, seq_length=7))
    prints = {sets.train.fingerprint for sets in (first, *others)}
    assert len(prints) == 5
    (tmp_path / "moved").mkdir()
    moved = write(tmp_path / "moved" / "elsewhere", 20)
    assert open_sets(data_path=moved).train.fingerprint == first.train.fingerprint


def test_no_data_at_all() -> None:
    with pytest.raises(SettingsError, match="set data_path"):
        open_sets()


def test_data_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    """Its ids would all be inside the vocabulary: nothing else would notice."""
    prefix = write(tmp_path / "set", 20)
    write_record(prefix, build_tokenizer("CharLevelTokenizer", None), append_eod=True)
    open_sets(data_path=prefix)
    other = build_tokenizer("HFTokenizer", write_tokenizer_json(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"was made with another tokenizer: CharLevelTokenizer, 512 ids.*Set tokenizer"):
        datasets_from_args(settings(data_path=prefix), other)
    with pytest.raises(DataError, match="another tokenizer"):
        lists = {f"{name}_data_paths": [prefix] for name in ("train", "valid", "test")}
        datasets_from_args(settings(**lists), other)


def everything(sets: Datasets, count: int) -> list[list[int]]:
    """The first `count` samples of training."""
    stream = sets.train.batches(consumed_samples=0, micro_batch_size=count, dp_rank=0, dp_size=1)
    return next(stream).tokens.tolist()


def test_neox_order_is_that_of_the_original(tmp_path: Path) -> None:
    """From settings to batches: the samples that GPT-NeoX served for the same data, split, seed and length."""
    (case,) = [case for case in neox_goldens.expected()["gpt2_dataset"] if case["id"] == "cfg00"]
    sets = datasets_from_args(
        settings(
            data_path=str(neox_goldens.dataset(case["prefix"]).prefix),
            data_order="neox",
            data_cache_path=str(tmp_path / "cache"),
            split=case["split"],
            seq_length=case["seq_length"],
            seed=case["seed"],
            train_iters=500,
            eval_interval=100,
            eval_iters=1,
        ),
        50277,
    )
    assert [part["documents"] for part in sets.train.manifest["parts"]] == [case["sets"]["train"]["documents"]]
    known = case["sets"]["train"]["samples"]
    assert everything(sets, 4) == [known[str(k)][:-1] for k in range(4)]
    assert sets.test is None
    assert sets.valid is not None and sets.valid.num_samples == 69
    assert sum(path.is_dir() for path in (tmp_path / "cache").iterdir()) == 2
    assert "GPT-NeoX's order of packed sequences 0 to 262" in sets.train.describe()


def test_neox_order_of_lists_is_built_for_the_run(tmp_path: Path) -> None:
    given = {"data_order": "neox", "data_cache_path": str(tmp_path / "cache"), "train_data_weights": [3, 1]}
    sets = lists(tmp_path, **given)
    assert sets.train.num_samples == 40
    parts, _ = sets.train.source.locate(np.arange(40))
    assert np.bincount(parts).tolist() == [30, 10]
    with pytest.raises(DataError, match="built for 40"):
        everything(sets, 41)
    longer = lists(tmp_path, **given, train_iters=99)
    assert longer.train.fingerprint != sets.train.fingerprint, "the order depends on the length of the run"


def test_without_the_helper_numpy_works_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"data_path": write(tmp_path / "set", 20), "data_order": "neox", "data_cache_path": str(tmp_path / "cache")}
    with_helper = everything(open_sets(**given), 40)
    monkeypatch.setattr("megatron.data.from_args.helper", lambda: None)
    monkeypatch.setattr("megatron.data.kernels.helper", lambda: None)
    given["data_cache_path"] = str(tmp_path / "other")
    without = open_sets(**given)
    assert everything(without, 40) == with_helper
    assert [note for note in without.notes if "C++ helper" in note and "pip install pybind11" in note]


def test_preshuffled_rows_come_in_file_order(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "rows", vocab_size=512) as writer:
        for number in range(50):
            writer.add_document([number] * (SEQ + 1))
    given = {"data_path": str(tmp_path / "rows"), "data_kind": "rows", "split": "1"}
    sets = open_sets(**given)
    assert everything(sets, 40) == [[number] * SEQ for number in range(40)]
    with pytest.raises(DataError, match=r"asks for 52 samples of this set.*it has 50"):
        open_sets(**given, train_iters=13)
    with pytest.raises(DataError, match=r"row 0 has 9 tokens, expected seq_length \+ 1 = 8"):
        open_sets(**given, seq_length=7)


@pytest.mark.parametrize("kind", ["pack_until_overflow", "unpacked"])
def test_packing_kinds_cache_what_they_build(tmp_path: Path, kind: str) -> None:
    given = {
        "data_path": write(tmp_path / "set", 20, 6),
        "pack_impl": kind,
        "split": "1",
        "data_cache_path": str(tmp_path / "cache"),
    }
    sets = open_sets(**given)
    assert sets.train.num_samples == 20, "two documents of 6 do not fit into 9"
    batch = next(sets.train.batches(consumed_samples=0, micro_batch_size=20, dp_rank=0, dp_size=1))
    assert batch.loss_mask.sum(dim=1).tolist() == [5.0] * 20
    assert (tmp_path / "cache").is_dir()
    assert open_sets(data_path=given["data_path"], split="1").train.fingerprint != sets.train.fingerprint
    with pytest.raises(DataError, match=r"none of the 20 documents.*allow_chopped: false"):
        open_sets(**given, seq_length=4, allow_chopped=False)


def test_weights_by_tokens_and_their_changes(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 10, 20), write(tmp_path / "b", 5, 120, shift=3)
    held_out = [write(tmp_path / "held_out", 5, shift=9)]
    given = {"train_data_paths": [a, b], "valid_data_paths": held_out, "test_data_paths": held_out}
    assert open_sets(**given, weight_by_num_tokens=True).train.source.blend.shares == (0.25, 0.75)
    half = open_sets(**given, weight_by_num_tokens=True, weighted_sampler_alpha=0.0)
    assert half.train.source.blend.shares == (0.5, 0.5)
    changes = [SimpleNamespace(samples=20, weights=[1, 0]), SimpleNamespace(samples=30, weights=[0, 1])]
    sets = open_sets(**given, train_data_weight_changes=changes)
    parts, _ = sets.train.source.locate(np.arange(40))
    assert np.bincount(parts[:20]).tolist() == [10, 10]
    assert parts[20:30].tolist() == [0] * 10
    assert parts[30:].tolist() == [1] * 10
    assert sets.require("valid").fingerprint == open_sets(**given).require("valid").fingerprint
    assert sets.train.fingerprint != open_sets(**given).train.fingerprint


def test_many_epochs_are_ready_at_once_and_noted(tmp_path: Path) -> None:
    """Ten small documents and a million steps: an index of epochs took gpt-neox #919 840 seconds."""
    start = time.monotonic()
    sets = open_sets(data_path=write(tmp_path / "set", 10), split="1", train_iters=1_000_000)
    assert sets.train.source.locate(np.array([3_999_999]))[1][0] < sets.train.num_samples
    assert time.monotonic() - start < 60
    assert any("reads 81,632.7 epochs" in note for note in sets.notes), sets.notes


@pytest.mark.parametrize("key", ["eod_mask_loss", "attention_document_mask"])
def test_masks_without_an_end_of_document_are_noted(tmp_path: Path, key: str) -> None:
    with IndexedDatasetWriter(tmp_path / "endless", vocab_size=512) as writer:
        writer.add_document([7] * 500)
    tokenizer = build_tokenizer("CharLevelTokenizer", None)
    sets = open_sets(data_path=str(tmp_path / "endless"), split="1", **{key: True})
    assert any(f"no end of document (id {tokenizer.eod})" in note for note in sets.notes)
    fine = open_sets(data_path=write(tmp_path / "set", 20), split="1", **{key: True})
    assert not any("no end of document" in note for note in fine.notes)


def test_workers_read_training_only(tmp_path: Path) -> None:
    sets = open_sets(data_path=write(tmp_path / "set", 20), num_workers=2)
    assert (sets.train.workers, sets.require("valid").workers) == (2, 0)
