"""As an ordinary user: read-only data are enough; a folder that cannot be written is refused before any work."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.folders import check_writable
from megatron.data.from_args import datasets_from_args
from megatron.errors import CheckpointError, SettingsError
from megatron.monitor.events import EventLog
from megatron.monitor.logger import configure_logging
from megatron.neox_arguments.load import load_arguments
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

NOBODY = 65534


def test_as_nobody(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(data, data_cache_path=str(tmp_path / "cache"), pack_impl="unpacked")
    args = load_arguments([write_settings(tmp_path / "config.yml", settings)], world_size=1)
    closed = tmp_path / "closed"
    closed.mkdir()
    for path in (tmp_path / "data").iterdir():
        path.chmod(0o444)
    (tmp_path / "data").chmod(0o555)
    closed.chmod(0o555)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)

    def read_only_data() -> None:
        assert datasets_from_args(args, 512).train.num_samples > 0

    def refused(kind: type[Exception], action: Callable[[], object]) -> Callable[[], None]:
        def check() -> None:
            with pytest.raises(kind, match=r"closed.*"):
                action()

        return check

    cases = [
        read_only_data,
        refused(CheckpointError, lambda: check_writable(closed)),
        refused(CheckpointError, lambda: check_writable(closed / "run" / "one")),
        refused(SettingsError, lambda: (EventLog(closed / "events.jsonl"), configure_logging(log_dir=closed))),
    ]
    score("S28", sum(succeeds_as_nobody(case, tmp_path) for case in cases), len(cases), "found out at the first save")


def succeeds_as_nobody(case: Callable[[], None], folder: Path) -> bool:
    """Run it in a child without root's rights, which pass over permissions."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                open_the_way(folder)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            case()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def open_the_way(folder: Path) -> None:
    """pytest keeps its folders to their owner; the other user must get through."""
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001 and parent != Path("/root"):
            parent.chmod(mode | 0o011)
    folder.chmod(0o755)
