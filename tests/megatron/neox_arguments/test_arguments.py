"""The settings object itself."""

import json

import pytest
from pydantic import ValidationError

from megatron.neox_arguments.arguments import GROUPS, NeoXArgs


def test_nothing_can_be_changed(load):
    with pytest.raises(ValidationError):
        load().hidden_size = 3


def test_the_flat_dict_holds_what_differs_from_the_defaults(load):
    flat = load(seed=1234, log_interval=7).to_flat_dict()
    assert "seed" not in flat and flat["log_interval"] == 7 and flat["optimizer"]["params"]["lr"] == 1e-3
    assert json.loads(json.dumps(flat)) == flat


def test_every_key_is_in_one_group_and_described():
    keys = [key for group in GROUPS.values() for key in group.model_fields]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(NeoXArgs.model_fields)
    for key, field in NeoXArgs.model_fields.items():
        assert field.description, key


def test_every_default_obeys_its_own_type():
    required = {"num_layers", "hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings"}
    fields = NeoXArgs.model_fields
    defaults = {key: field.get_default() for key, field in fields.items() if key not in required}
    NeoXArgs.model_validate({**dict.fromkeys(required, 1), **defaults})
    assert {key for key, field in fields.items() if field.is_required()} == required


def test_choices_ignore_case(load):
    args = load(norm="RMSNorm", lr_decay_style="COSINE")
    assert (args.norm, args.lr_decay_style) == ("rmsnorm", "cosine")


def test_whole_numbers_pass_for_numbers_but_not_the_reverse(load, complaint):
    assert load(weight_decay=0).weight_decay == 0.0
    assert "expected whole number" in complaint(seed=1.0)
    assert "expected true or false" in complaint(gpt_j_residual=0)
    assert "expected whole number" in complaint(seed=True)


def test_bucket_sizes_may_be_written_with_an_exponent(load):
    assert (
        load(zero_optimization={"stage": 1, "reduce_bucket_size": 5e8}).zero_optimization.reduce_bucket_size
        == 500_000_000
    )
