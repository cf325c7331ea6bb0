"""The table of legal combinations: what it refuses, what --check prints of it, and the page made from it."""

from itertools import combinations
from pathlib import Path

import pytest

from megatron.neox_arguments.legal_layouts import FEATURES, ROWS, in_use, rows_of, stage_of, table
from megatron.neox_arguments.show import describe

ROOT = Path(__file__).resolve().parents[3]
ON = {
    "tensor": {"model_parallel_size": 2},
    "pipeline": {"pipe_parallel_size": 2},
    "ZeRO-2": {"zero_optimization": {"stage": 2}},
    "ZeRO-3": {"zero_optimization": {"stage": 3}},
    "sequence": {"sequence_parallel": True},
    "context": {"context_parallel_size": 2},
    "recompute": {"checkpoint_activations": True},
    "compile": {"torch_compile": True},
    "bf16": {"precision": "bfloat16"},
    "fp16": {"precision": "fp16"},
    "matrices": {"optimizer": {"type": "Muon", "params": {"lr": 0.01}}},
}
ALWAYS = {"ZeRO-1", "fp32"}  # until another one of their kind is chosen


def test_every_feature_can_be_switched_on(load):
    assert set(ON) | ALWAYS == set(FEATURES)
    for name, settings in ON.items():
        more = ON["tensor"] if name == "sequence" else {}
        assert name in in_use(load(**settings, **more))
    assert set(in_use(load())) == ALWAYS


@pytest.mark.parametrize(("one", "other"), combinations(ON, 2))
def test_a_pair_is_refused_where_the_table_says_so(complaint, load, one, other):
    if {one, other} in ({"ZeRO-2", "ZeRO-3"}, {"bf16", "fp16"}):
        return
    needed = ON["tensor"] if "sequence" in (one, other) else {}
    settings = {**needed, **ON[one], **ON[other]}
    never = [row for row in ROWS if set(row.features) == {one, other} and row.condition == "never"]
    if never:
        text = complaint(**settings)
        assert never[0].name in text and never[0].reason in text and never[0].instead in text
    else:
        load(**settings)


def test_sequence_needs_tensor_ranks_that_divide_it(complaint):
    assert "sequence x tensor" in complaint(sequence_parallel=True)
    odd = {"seq_length": 2047, "max_position_embeddings": 2048}
    assert "must be a multiple" in complaint(sequence_parallel=True, model_parallel_size=2, **odd)


def test_check_prints_the_rows_of_the_run(load):
    args = load(**ON["tensor"], **ON["sequence"])
    text = describe(args)
    assert "tensor x ZeRO-1 x sequence x fp32: legal together" in text
    [row] = rows_of(in_use(args))
    assert f"{row.name}: {row.condition}" in text


def test_zero_0_runs_as_1(load):
    assert stage_of(load(zero_optimization={"stage": 0})) == 1


def test_the_page_holds_the_table():
    assert table() in (ROOT / "docs" / "parallelism.md").read_text(encoding="utf-8"), (
        "docs/parallelism.md: put the output of megatron.neox_arguments.legal_layouts.table() between the headings"
    )
