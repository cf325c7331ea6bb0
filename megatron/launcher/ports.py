"""Ports where the ranks meet: finding a free one, and saying so when a wanted one is taken."""

import errno
import random
import socket
from pathlib import Path

from megatron.errors import SettingsError

_LOWEST, _USUAL_START = 10_000, 32_768


def free_port() -> int:
    """A port that was free a moment ago on this host, from below the range that outgoing connections take theirs from.

    Ranks may take half a minute to get there: a port of that range would now and then be gone by then.
    """
    highest = max(_start_of_outgoing_ports(), _LOWEST + 1000)
    for _ in range(200):
        port = random.SystemRandom().randrange(_LOWEST, highest)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("", port))
                return port
            except OSError:
                continue
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _start_of_outgoing_ports() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_START


def check_port(port: int) -> None:
    """SettingsError if nobody can listen on this port here."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OverflowError:
            raise SettingsError(f"master_port is {port}; a port lies between 1 and 65535.") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"master_port {port} is already in use on this host, so the ranks cannot meet there.\n"
                    f"Another run may be using it (`ss -ltnp | grep {port}`). Leave master_port out to get a free "
                    f"port, or choose another, for example --set master_port={free_port()}."
                ) from None
            if error.errno == errno.EACCES:
                raise SettingsError(
                    f"master_port {port} is reserved for the system's own services; choose one above 1023."
                ) from None
            if family == socket.AF_INET:  # a host without IPv6 is no fault
                raise
