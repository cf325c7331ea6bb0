"""On a host: where the ranks would meet, and the way there."""

import socket

from megatron.launcher.meeting import meeting_address, meeting_port

_listeners: list[socket.socket] = []


def meeting(host: str, port: int | None, reached_at: str, towards: str | None) -> dict[str, str | int]:
    """The address and port that the launcher would choose on this host, which the hostfile calls `host`.

    SettingsError where the port is taken.
    """
    return {"address": meeting_address(host, reached_at, towards), "port": meeting_port(port)}


def listen(port: int) -> None:
    """Accept connections on the port until this process ends."""
    _listeners.append(socket.create_server(("", port), backlog=4096))


def connect(host: str, port: int, patience: float) -> str | None:
    """Why no connection comes about within `patience` seconds; None: one does."""
    try:
        socket.create_connection((host, port), timeout=patience).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
