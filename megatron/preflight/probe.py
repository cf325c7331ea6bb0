"""Runs on a host that is looked at: answers questions, one JSON line each, until its standard input ends.

Started as `python -m megatron.preflight.probe` through ssh, or directly on this host. A line {"ask": name, ...} on
standard input calls one of the functions below, and a line that begins with MARK answers it.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from megatron.errors import SettingsError, UserError
from megatron.preflight import host_files, host_machine, host_network

MARK = "deepy-probe "


def main() -> NoReturn:
    # Whatever a library prints goes to standard error: the answers stay alone.
    answers, sys.stdout = sys.stdout, sys.stderr
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        question = json.loads(lines.get())
        name = question.pop("ask")
        try:
            answer = {"answer": _questions()[name](**question)}
        except UserError as error:
            answer = {"fault": str(error), "code": error.exit_code}
        except Exception as error:
            answer = {"fault": f"{type(error).__name__}: {error}", "code": 1}
        answers.write(MARK + json.dumps(answer) + "\n")
        answers.flush()


def _read(lines: "queue.SimpleQueue[str]") -> None:
    """When nobody asks any more this process ends, even in the middle of an answer that does not come."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _questions() -> dict[str, Callable[..., Any]]:
    return {
        "begin": _begin,
        "clock": time.time,
        "machine": host_machine.machine,
        "meeting": host_network.meeting,
        "listen": host_network.listen,
        "connect": host_network.connect,
        "data": host_files.data,
        "words": host_files.words,
        "folder": host_files.folder,
        "leave": host_files.leave_token,
        "look": host_files.sees_token,
        "take": host_files.take_tokens,
        "checkpoint": host_files.checkpoint,
    }


def _begin(variables: dict[str, str], folder: str) -> str:
    """Take over environment and current folder as the ranks will; the address where this host was reached."""
    os.environ.update(variables)
    sys.path[1:1] = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if entry]
    try:
        os.chdir(folder)
    except OSError as error:
        raise SettingsError(
            f"the current folder {folder} is not there ({error.strerror}); every host needs it under the same path"
        ) from None
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else ""


if __name__ == "__main__":
    main()
