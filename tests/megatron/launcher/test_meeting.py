"""The address and the port where ranks of several hosts meet."""

import socket

import pytest

from megatron.errors import SettingsError
from megatron.launcher import meeting
from megatron.launcher.meeting import (
    address_towards,
    interface_of,
    interface_variables,
    meeting_address,
    meeting_port,
    peer_to_look_at,
)


def test_the_first_host_looks_at_another_that_is_not_the_launching_machine() -> None:
    assert peer_to_look_at(["127.0.0.1", "10.0.0.2", "10.0.0.3"]) == "10.0.0.2"
    assert peer_to_look_at(["10.0.0.1", "127.0.1.1", "10.0.0.3"]) == "10.0.0.3"
    assert peer_to_look_at(["10.0.0.1", "127.0.1.1"]) is None
    assert peer_to_look_at(["10.0.0.1", ""]) is None


def test_the_address_of_the_first_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert meeting_address("node1", "10.0.0.1", "127.0.0.1") == "127.0.0.1", "by its way to the other host"
    assert meeting_address("node1", "10.0.0.1", None) == "10.0.0.1", "else as the launching machine reached it"
    assert meeting_address("node1", "", None) == "node1"
    monkeypatch.setattr(meeting, "address_towards", lambda _: None)
    assert meeting_address("node1", "10.0.0.1", "10.9.9.9") == "10.0.0.1", "no way there"


def test_a_port_in_use_is_refused_if_wanted_and_passed_over_if_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"master_port {port} is already in use"):
            meeting_port(port)
        monkeypatch.setattr(meeting, "USUAL_PORT", port)
        found = meeting_port(None)
        assert found != port
    assert meeting_port(port) == port == meeting_port(None)


def test_gloo_stays_on_the_interface_of_the_meeting_point() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1" and address_towards("no such host") is None
    assert interface_of("127.0.0.1") == "lo" and interface_of("192.0.2.77") is None
    assert interface_variables({}, "127.0.0.1") == {"GLOO_SOCKET_IFNAME": "lo"}
    assert interface_variables({"GLOO_SOCKET_IFNAME": "ib0"}, "127.0.0.1") == {}
    assert interface_variables({}, "no such host") == {}
