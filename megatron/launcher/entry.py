"""The door of every roof script: turns an error into one readable message with its rank, and an exit code.

Exit codes: see megatron/launcher/exit_codes.py. A lost connection between ranks becomes 6; what nobody foresaw keeps
its traceback and becomes 1.
"""

import contextlib
import faulthandler
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from megatron.errors import PeerError, SettingsError, StopRequested, UserError
from megatron.launcher.exit_marks import leave_mark
from megatron.launcher.failure_record import leave_record
from megatron.launcher.place import host, place
from megatron.neox_arguments.secrets import hide

INTERRUPTED = 130

# What gloo, NCCL and the store say when another rank is gone or hangs (torch 2.10-2.13).
_LOST_PEER = re.compile(
    r"connection (?:closed|reset) by peer|connectFullMesh failed|connection refused|broken pipe|"
    r"timed out waiting \d+ms for|socket timeout|wait timeout after|recvValue failed|store.*timed? ?out|"
    r"NCCL (?:communicator was aborted|error)|watchdog caught collective operation timeout|"
    r"no more data can be read|application timeout caused pair closure|monitoredBarrier",
    re.IGNORECASE,
)
_hanging = False
_LOST_PEER_TYPES = ("DistNetworkError", "DistBackendError", "DistStoreError")


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main() and leave the process with the right exit code; never returns."""
    code = run(main)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    leave_mark(code)
    if _hanging or (code != 0 and _process_group_is_up()):
        # Taking down a process group that has lost a member can hang for minutes; the message is out already.
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


def leave_without_waiting() -> None:
    """A thread of a library hangs, and what that library does at exit would too: end the process at once."""
    global _hanging
    _hanging = True


def run(main: Callable[[], int | None]) -> int:
    """Run main() and return the exit code; messages have been printed or handed to the launcher."""
    dump_stacks_on_request()
    write_whole_lines()
    try:
        return main() or 0
    except KeyboardInterrupt:
        return _say(INTERRUPTED, "KeyboardInterrupt", "interrupted from the keyboard; nothing was saved by this")
    except SystemExit as exit_:
        return _code_of(exit_)
    except BrokenPipeError as error:
        if not _is_rank():
            # `python deepy.py ... | head`: the reader left, which is no fault of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return _say(PeerError.exit_code, "PeerError", _lost_peer_text(error))
    except Exception as error:
        return _report(error)


def dump_stacks_on_request() -> None:
    """Print the stacks of all threads on SIGUSR2: the launcher asks a hanging rank before it ends it."""
    if hasattr(signal, "SIGUSR2"):
        with contextlib.suppress(ValueError, AttributeError, OSError):
            faulthandler.register(signal.SIGUSR2, all_threads=True)


def write_whole_lines() -> None:
    """Python -u writes a line and its end in two pieces, so those of two ranks mix; line buffering keeps them whole."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]  # a replaced stream


def _report(error: Exception) -> int:
    if isinstance(error, UserError):
        return _say(error.exit_code, type(error).__name__, str(error))
    if _is_library_error(error):
        return _say(SettingsError.exit_code, type(error).__name__, str(error))
    if _address_in_use(error):
        return _say(SettingsError.exit_code, "SettingsError", _port_text(error))
    if _lost_a_peer(error):
        return _say(PeerError.exit_code, "PeerError", _lost_peer_text(error))
    below_run = error.__traceback__.tb_next if error.__traceback__ else None
    _write(_with_rank("".join(traceback.format_exception(type(error), error, below_run))))
    leave_record(1, type(error).__name__, "")
    return 1


def _say(code: int, kind: str, message: str) -> int:
    message = hide(message)
    if not leave_record(code, kind, message):
        title = "stopped" if code == StopRequested.exit_code else kind
        _write(_with_rank(f"{title}: {message}\n"))
    return code


def _with_rank(text: str) -> str:
    """Every line begins with rank, host and place where there are several, so that mixed output stays readable."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return text
    prefix = f"[rank {os.environ.get('RANK', '?')} on {host()}, {place()}] "
    return "".join(prefix + line for line in text.splitlines(keepends=True))


def _write(text: str) -> None:
    """One write for the whole message: lines of several ranks do not mix."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        text = hide(text)
        sys.stderr.write(text if text.endswith("\n") else text + "\n")
        sys.stderr.flush()


def _code_of(exit_: SystemExit) -> int:
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code
    return _say(1, "error", str(exit_.code))


def _is_rank() -> bool:
    return os.environ.get("RANK", "").isdigit()


def _process_group_is_up() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def _is_library_error(error: Exception) -> bool:
    library = sys.modules.get("sepllm.errors")
    return bool(library and isinstance(error, library.SepLLMError))


def _address_in_use(error: Exception) -> bool:
    return "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()


def _lost_a_peer(error: BaseException | None) -> bool:
    """True for a broken or silent connection to another rank, also when another error was raised from it."""
    while error is not None:
        name = type(error).__name__
        if name in _LOST_PEER_TYPES or isinstance(error, ConnectionError):
            return True
        if isinstance(error, RuntimeError) and _LOST_PEER.search(str(error)):
            return True
        error = error.__cause__
    return False


def _lost_peer_text(error: Exception) -> str:
    text = re.sub(r"^\[[^]]*\]\s*", "", str(error).strip())  # gloo begins with a source file of its own
    first_line = text.splitlines()[0] if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f"{ours[-1].filename}:{ours[-1].lineno} in {ours[-1].name}" if ours else "an unknown place"
    return (
        f"lost contact with another rank at {place}: {first_line}\n"
        "The cause is the rank that failed first; if none did, a host or network link is down or a rank hangs."
    )


def _port_text(error: Exception) -> str:
    port = os.environ.get("MASTER_PORT", "?")
    return (
        f"port {port} on this host is taken, so the ranks cannot meet there ({str(error).strip().splitlines()[0]}).\n"
        "Choose another with master_port (or MASTER_PORT), or leave it out on one host."
    )
