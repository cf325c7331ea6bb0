"""Which hosts a restart goes on with, against every choice tried one by one."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.launcher.elastic import Share, TooFewHosts, fewer_hosts
from megatron.launcher.hostfile import Hosts
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts

MODEL = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 64,
    "max_position_embeddings": 64,
    "train_iters": 10,
    "optimizer": {"type": "Adam", "params": {"lr": 0.001}},
    "separator_token_ids": [1, 2],
    "data_path": "somewhere",
}


@cache
def arguments(world_size: int, **changes: object) -> NeoXArgs:
    return arguments_from_texts([("tiny.yml", json.dumps({**MODEL, **changes}))], (), world_size)


def share(slots: list[int], stages: int, micro: int, accumulation: int, min_hosts: int | None) -> Share:
    hosts = Hosts({f"node{number}": tuple(range(count)) for number, count in enumerate(slots)})
    sizes = {"train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": accumulation}
    least = {} if min_hosts is None else {"min_hosts": min_hosts}
    return Share(hosts, arguments(hosts.world_size, pipe_parallel_size=stages, **sizes, **least))


@settings(max_examples=60, deadline=None)
@given(
    slots=st.lists(st.sampled_from([2, 4]), min_size=2, max_size=5),
    stages=st.sampled_from([1, 2]),
    micro=st.sampled_from([1, 2, 3, 4]),
    accumulation=st.integers(1, 3),
    gone=st.sets(st.integers(0, 4), min_size=1, max_size=3),
    least=st.integers(1, 3),
)
def test_the_most_hosts_that_keep_the_batch(
    slots: list[int], stages: int, micro: int, accumulation: int, gone: set[int], least: int
) -> None:
    whole = share(slots, stages, micro, accumulation, least)
    total = whole.args.derived.train_batch_size
    there = [number for number in range(len(slots)) if number not in gone]

    def fits(chosen: list[int]) -> bool:
        ranks = sum(slots[number] for number in chosen)
        copies = ranks // stages
        return len(chosen) >= least and any(
            copies * size * passes == total for size in range(1, micro + 1) for passes in range(1, total + 1)
        )

    best = max((count for count in range(1, len(there) + 1) if fits(there[:count])), default=None)
    names = {f"node{number}" for number in gone}
    if best is None:
        would_do = [str(count) for count in range(1, len(slots) + 1) if fits(list(range(count)))]
        with pytest.raises(TooFewHosts, match=f"hostfile: {', '.join(would_do) or 'none'}\\.$"):
            fewer_hosts(whole, names, ())
        return
    found = fewer_hosts(whole, names, ())
    assert list(found.hosts.slots) == [f"node{number}" for number in there[:best]]
    derived = found.args.derived
    assert derived.train_batch_size == total and derived.pp_size == stages
    assert derived.world_size == found.hosts.world_size and derived.micro_batch_size <= micro
    again = arguments_from_texts(whole.args.texts, found.changes, found.hosts.world_size).derived
    assert again == derived, "the ranks read the same from the changes"


def test_the_users_own_overrides_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fewer_hosts(share([2, 2], 1, 2, 1, 1), {"node1"}, ("train_iters=77", "train_micro_batch_size_per_gpu=2"))
    assert found.args.train_iters == 77 and found.args.derived.train_batch_size == 8


def test_all_hosts_are_needed_unless_said_otherwise() -> None:
    with pytest.raises(TooFewHosts, match="min_hosts: N"):
        fewer_hosts(share([2, 2], 1, 1, 1, None), {"node1"}, ())
