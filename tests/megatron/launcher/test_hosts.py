"""From settings to hosts, slots and capacity."""

import socket
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.launcher import hosts
from megatron.launcher.hostfile import Hosts
from megatron.launcher.hosts import (
    HostSettings,
    check_capacity,
    choose_hosts,
    device_variables,
    is_this_host,
    needs_other_hosts,
)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLTS_HOSTFILE", raising=False)


def machine(monkeypatch: pytest.MonkeyPatch, accelerators: int, cores: int) -> None:
    monkeypatch.setattr(hosts, "visible_accelerators", lambda: [str(n) for n in range(accelerators)])
    monkeypatch.setattr(hosts, "usable_cores", lambda: cores)


def test_values_of_a_wrong_type_are_left_to_the_checker() -> None:
    values = {"hostfile": 3, "num_gpus": "four", "num_nodes": True, "include": ["a"], "force_multi": "yes"}
    assert HostSettings.from_values(values) == HostSettings()


def test_a_hostfile_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hosts"
    file.write_text("a slots=4\nb slots=4\n")
    chosen = choose_hosts(HostSettings.from_values({"hostfile": str(file), "exclude": "b:3", "num_gpus": 3}))
    assert chosen == Hosts({"a": (0, 1, 2), "b": (0, 1, 2)})
    monkeypatch.setenv("DLTS_HOSTFILE", str(file))
    chosen = choose_hosts(HostSettings.from_values({"num_nodes": 1}))
    assert chosen == Hosts({"a": (0, 1, 2, 3)})


def test_this_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, accelerators=4, cores=8)
    assert choose_hosts(HostSettings()) == Hosts({"localhost": (0, 1, 2, 3)})
    assert choose_hosts(HostSettings(num_gpus=2)) == Hosts({"localhost": (0, 1)})
    assert choose_hosts(HostSettings(include="localhost:1,3")) == Hosts({"localhost": (1, 3)})
    machine(monkeypatch, accelerators=0, cores=8)
    assert choose_hosts(HostSettings()) is None
    assert choose_hosts(HostSettings(num_gpus=2)) == Hosts({"localhost": (0, 1)})
    with pytest.raises(SettingsError, match="no hostfile"):
        choose_hosts(HostSettings(num_nodes=2))
    with pytest.raises(SettingsError, match="this host has none"):
        choose_hosts(HostSettings(include="localhost:1"))


def test_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, accelerators=2, cores=64)
    check_capacity((0, 1), None, None)
    with pytest.raises(SettingsError, match=r"4 ranks on this host.*has 2"):
        check_capacity((0, 1, 2, 3), 4, None)
    with pytest.raises(SettingsError, match="slots up to 5"):
        check_capacity((1, 5), None, "hosts")
    machine(monkeypatch, accelerators=0, cores=4)
    check_capacity((0, 1, 2, 3), None, None)
    check_capacity(tuple(range(8)), 8, None)
    with pytest.raises(SettingsError, match=r"8 ranks(.|\n)*4 CPU cores(.|\n)*num_gpus: 8"):
        check_capacity(tuple(range(8)), None, None)


def test_where_it_runs() -> None:
    here = socket.gethostname()
    assert is_this_host("localhost") and is_this_host(here) and is_this_host(here.upper())
    assert not is_this_host(here + "x")
    assert not needs_other_hosts(Hosts({here: (0,)}), force_multi=False)
    assert needs_other_hosts(Hosts({here: (0,)}), force_multi=True)
    assert needs_other_hosts(Hosts({"elsewhere": (0,)}), force_multi=False)
    assert needs_other_hosts(Hosts({here: (0,), "elsewhere": (0,)}), force_multi=False)


def test_a_part_of_the_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "visible_accelerators", lambda: ["4", "5", "6"])
    assert device_variables((0, 2)) == {"CUDA_VISIBLE_DEVICES": "4,6"}
    assert device_variables((0, 1)) == {}
