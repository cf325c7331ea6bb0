"""What the hosts' ranks print, on the launching machine: a line each, named by host and rank, and kept in files."""

import contextlib
import sys
from pathlib import Path
from typing import BinaryIO, TextIO

from megatron.launcher.display_lines import MARK
from megatron.launcher.rank_output import open_log


class HostLines:
    """Shows the lines of all ranks; keeps those of each host in folder/HOST.log as they arrive here.

    The hosts write a file per rank into the same folder: where it is not shared, these here are all there is to see.
    """

    def __init__(self, folder: Path | None, hosts: list[str]) -> None:
        """SettingsError when the folder cannot be written."""
        self._files: dict[str, BinaryIO] = {}
        if folder is not None:
            self._files = {host: open_log(folder / f"{host}.log") for host in hosts}

    def show(self, host: str, rank: int, stream: int, text: str) -> None:
        """text: whole lines; stream: 1 for the rank's output, 2 for its errors."""
        self._write(host, f"rank {rank}: ", text, sys.stdout if stream == 1 else sys.stderr)

    def show_words(self, host: str, text: str) -> None:
        """What comes from the host, but not from a rank: its login shell, ssh."""
        self._write(host, "", text, sys.stderr)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, host: str, name: str, text: str, stream: TextIO) -> None:
        lines = text.removesuffix("\n").split("\n")  # splitlines() would also cut at the mark of an event
        if host in self._files:
            with contextlib.suppress(OSError):
                kept = "".join(f"{name}{line}\n" for line in lines if MARK not in line)
                self._files[host].write(kept.encode("utf-8", "replace"))
        stream.write("".join(f"{host} {name}{line}\n" for line in lines))
        stream.flush()
