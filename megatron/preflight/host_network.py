"""On a host: ports and addresses."""

import socket

from megatron.errors import SettingsError
from megatron.launcher.ports import check_port

_listeners: list[socket.socket] = []


def port_fault(port: int) -> str | None:
    """Why the ranks cannot meet on this port here; None: they can."""
    try:
        check_port(port)
    except SettingsError as error:
        return str(error)
    return None


def resolve(host: str) -> str | None:
    """The IPv4 address that this host takes `host` for; None when it knows none."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None


def listen(port: int) -> None:
    """Accept connections on the port until this process ends."""
    listener = socket.create_server(("", port), backlog=4096)
    _listeners.append(listener)


def connect(host: str, port: int, patience: float) -> str | None:
    """Why no connection comes about within `patience` seconds; None: one does."""
    try:
        socket.create_connection((host, port), timeout=patience).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
