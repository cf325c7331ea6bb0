"""Where the ranks of several hosts meet: an address of the first host that the others reach, and a port free there."""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Mapping, Sequence

from megatron.errors import SettingsError
from megatron.launcher.ports import check_port, free_port

USUAL_PORT = 29500
_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface


def peer_to_look_at(addresses: Sequence[str]) -> str | None:
    """An address, not of the first host, that the first one can look towards to learn its own; None: there is none.

    addresses: of every host in order, as the launching machine reached it. Its own may be 127.0.0.1 in them.
    """
    return next((address for address in addresses[1:] if address and not is_loopback(address)), None)


def meeting_address(name: str, reached_at: str, towards: str | None) -> str:
    """This host's address as the others see it.

    name: what the hostfile calls it; reached_at: where the launching machine reached it; towards: another host.
    """
    return (address_towards(towards) if towards else None) or reached_at or name


def meeting_port(wanted: int | None) -> int:
    """The wanted port if this host can listen there (else SettingsError); without a wish 29500 or a free one."""
    if wanted is not None:
        check_port(wanted)
        return wanted
    try:
        check_port(USUAL_PORT)
    except SettingsError:
        return free_port()
    return USUAL_PORT


def address_towards(other: str) -> str | None:
    """The address that this host's packets to `other` carry; nothing is sent. None: no way there."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_variables(environment: Mapping[str, str], master_addr: str) -> dict[str, str]:
    """Keep gloo on the interface that leads to the meeting point: the host's own name may lead to 127.0.0.1."""
    if environment.get("GLOO_SOCKET_IFNAME"):
        return {}
    address = address_towards(master_addr)
    name = interface_of(address) if address else None
    return {"GLOO_SOCKET_IFNAME": name} if name else {}


def interface_of(address: str) -> str | None:
    """The network interface with this IPv4 address."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
        if socket.inet_ntoa(found[20:24]) == address:
            return name
    return None


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
