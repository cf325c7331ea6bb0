"""A rank that runs other code or other versions: all ranks refuse before anything is built, and say which host."""

import dataclasses
import os

import pytest

from megatron.checkpointing.together import Together
from megatron.errors import SettingsError
from megatron.launcher import fingerprint
from megatron.training import same_everywhere
from tests.helpers.processes import run_ranks


def _compare(changes: dict[str, str], allow: bool) -> list[str]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])

    def taken() -> fingerprint.Fingerprint:
        own = fingerprint.take_fingerprint()
        if rank == 0:
            return dataclasses.replace(own, host="first")
        found = dataclasses.replace(own, host="second", versions={**own.versions, **changes.get("versions", {})})
        if "file" in changes:
            files = {**own.files, changes["file"]: "0"}
            found = dataclasses.replace(found, code="0", files=files)
        return found

    same_everywhere.take_fingerprint = taken
    try:
        return list(same_everywhere.check_same_everywhere(Together(rank, 2), allow))
    except SettingsError as error:
        return ["refused", str(error)]


@pytest.mark.multiprocess
def test_two_ranks() -> None:
    torch = {"versions": {"torch": "1.0"}}
    assert run_ranks(_compare, 2, {}, False) == [[], []]
    for refused in run_ranks(_compare, 2, torch, False):
        assert refused[0] == "refused" and "second: torch 1.0; " in refused[1]
        assert "on first" in refused[1] and "allow_different_versions: true" in refused[1]
    assert [len(warned) for warned in run_ranks(_compare, 2, torch, True)] == [1, 1]
    for refused in run_ranks(_compare, 2, {**torch, "file": "megatron/errors.py"}, True):
        assert "second: megatron/errors.py differs" in refused[1] and "torch" not in refused[1]


def test_one_process_has_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(same_everywhere, "take_fingerprint")
    assert same_everywhere.check_same_everywhere(Together(), False) == ()
