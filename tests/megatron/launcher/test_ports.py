"""A port that is taken is refused before anything starts."""

import socket

import pytest

from megatron.errors import SettingsError
from megatron.launcher.ports import check_port, free_port


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_listening_port_is_refused_with_an_alternative(address: str) -> None:
    with socket.socket() as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"{port} is already in use(.|\n)*--set master_port=\d+"):
            check_port(port)
    check_port(port)


def test_a_free_port_passes() -> None:
    check_port(free_port())


def test_a_free_port_is_none_that_an_outgoing_connection_may_take() -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    assert not any(first <= free_port() <= last for _ in range(50))


def test_no_port_at_all() -> None:
    with pytest.raises(SettingsError, match="between 1 and 65535"):
        check_port(70000)
