"""Disk full, over quota, I/O error, byte limit in any file of a save: older ones whole, no stub, clear words."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing import space
from megatron.checkpointing.space import check_space
from megatron.checkpointing.together import Together
from megatron.errors import CheckpointError
from tests.faults.small_saves import files_of, loaded_step, naive_save, naive_step, save_small

KINDS = [errno.ENOSPC, errno.EDQUOT, errno.EIO]
FILES = ["weights-pp000-tp000.safetensors", "state.json.tmp", "manifest.json.tmp"]


def test_failed_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., None]) -> None:
    save_small(tmp_path, 1)
    held = 0
    for kind in KINDS:
        for file in FILES:
            with monkeypatch.context() as patch:
                fail_writing(patch, file, kind)
                with pytest.raises(CheckpointError) as caught:
                    save_small(tmp_path, 2)
            text = str(caught.value)
            held += (
                os.strerror(kind) in text and file in text and "bytes are free" in text and "rank 0 on" in text
                and sorted(entry.name for entry in tmp_path.iterdir()) == ["global_step1", "latest"]
                and loaded_step(tmp_path) == 1
            )  # fmt: skip
    held += byte_limit(tmp_path)
    naive = tmp_path / "naive"
    naive.mkdir()
    naive_save(naive, 1)
    with monkeypatch.context() as patch:
        fail_writing(patch, FILES[0], errno.ENOSPC)
        with pytest.raises(OSError):
            naive_save(naive, 1)
    assert naive_step(naive) is None
    score("S5", held, len(KINDS) * len(FILES) + 1, "a full disk in the middle leaves a stub under the step's name")


def fail_writing(patch: pytest.MonkeyPatch, name: str, kind: int) -> None:
    """The second half of the file `name` cannot be written."""
    opened: dict[int, str] = {}
    real_open, real_write = os.open, os.write

    def open_(path: str | Path, *rest: int, **options: int) -> int:
        descriptor = real_open(path, *rest, **options)
        opened[descriptor] = Path(path).name
        return descriptor

    def write(descriptor: int, content: bytes) -> int:
        if opened.get(descriptor) == name:
            raise OSError(kind, os.strerror(kind))
        return real_write(descriptor, content)

    patch.setattr(os, "open", open_)
    patch.setattr(os, "write", write)


def byte_limit(save: Path) -> bool:
    """The kernel itself refuses bytes past a limit (RLIMIT_FSIZE), in a child."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            save_small(save, 2)
        except CheckpointError as error:
            code = 0 if "File too large" in str(error) and "weights" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status == 0 and loaded_step(save) == 1 and not list(save.glob(".*"))


def test_no_room_for_the_first_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., None]
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda folder: 1_000_000)
    with pytest.raises(CheckpointError, match=r"needs 1,\d\d\d,\d\d\d bytes .* 1,000,000 free"):
        check_space(tmp_path / "run", sum(file.size() for file in files_of(1)), Together())
    with pytest.raises(CheckpointError, match="1,000,000 free"):
        save_small(tmp_path, 1)
    assert not list(tmp_path.iterdir())
    score("S6", 1, 1, "")


@pytest.mark.multiprocess
def test_a_real_full_file_system_before_step_1(tmp_path: Path, score: Callable[..., None]) -> None:
    """A file system of 1 MB, where the system lets us mount one: training refuses before its first step."""
    from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

    save = tmp_path / "small"
    save.mkdir()
    settings = tiny_settings(write_tiny_data(tmp_path / "data"), train_iters=2, save=str(save), checkpoint_factor=2)
    config = write_settings(tmp_path / "config.yml", settings)
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" train.py "$3"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(save), sys.executable, str(config)]
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow private mounts (unshare -rm)")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2])
    assert done.returncode == 4, done.stderr
    assert "a checkpoint needs" in done.stderr and "free" in done.stderr
    assert "grad norm" not in done.stdout
    score("S6", 1, 1, "")
