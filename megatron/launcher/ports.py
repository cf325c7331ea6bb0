"""Ports where the ranks meet: finding a free one, and saying so when a wanted one is taken."""

import errno
import socket

from megatron.errors import SettingsError


def free_port() -> int:
    """A port that was free a moment ago on this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


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
