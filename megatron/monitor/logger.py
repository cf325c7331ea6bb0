"""Who speaks: rank 0 for what all ranks would say, the others only for their own errors.

With a log folder each rank also keeps everything in a file of its own.
"""

import logging
import socket
import sys
import time
from pathlib import Path

from megatron.errors import SettingsError
from megatron.neox_arguments.secrets import hide

ROOT = "megatron"
STEPS = "megatron.steps"  # what a live display shows in a better way


def get_logger(name: str) -> logging.Logger:
    """A logger under `megatron`; pass __name__."""
    return logging.getLogger(name if name == ROOT or name.startswith(f"{ROOT}.") else f"{ROOT}.{name}")


def configure_logging(
    rank: int = 0, world_size: int = 1, log_dir: str | Path | None = None, *, step_lines: bool = True
) -> logging.Logger:
    """Set up the output of this process; calling it again replaces what was set up before.

    Rank 0 prints from INFO up on standard output, plain lines; every rank prints its errors on standard error with
    `[rank N on HOST]`. log_dir: each rank appends all it says, with UTC times, to log_dir/rank-NNNNN.log.
    step_lines: print those of STEPS as well; they are kept in the file in any case.
    SettingsError when log_dir cannot be written.
    """
    root = logging.getLogger(ROOT)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO)
    root.propagate = False
    if rank == 0:
        root.addHandler(_speaker(step_lines))
    root.addHandler(_errors(rank, world_size))
    if log_dir is not None:
        root.addHandler(_file(Path(log_dir), rank))
    return root


def _speaker(step_lines: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.levelno < logging.ERROR and (step_lines or record.name != STEPS))
    handler.setFormatter(_LineFormatter())
    return handler


def _errors(rank: int, world_size: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.ERROR)
    prefix = f"[rank {rank} on {socket.gethostname()}] " if world_size > 1 else ""
    handler.setFormatter(_Discreet(f"{prefix}%(levelname)s: %(message)s"))
    return handler


def _file(folder: Path, rank: int) -> logging.Handler:
    path = folder / f"rank-{rank:05d}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"log_dir: cannot write {path}: {error.strerror}.") from None
    text = f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {socket.gethostname()} [rank {rank}] %(message)s"
    formatter = _Discreet(text, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler


class _Discreet(logging.Formatter):
    """Keys and passwords are hidden, those in an exception's text too."""

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


class _LineFormatter(_Discreet):
    """Plain lines; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text
