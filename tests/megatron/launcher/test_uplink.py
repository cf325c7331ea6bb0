"""The agent's end of the connection: what watches ranks never waits for the network."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.launcher.frames import Splitter, encode

pytestmark = pytest.mark.multiprocess
ROOT = Path(__file__).resolve().parents[3]

# argv[1]: seconds of silence. Far more is sent than pipes and queue hold while nobody reads it.
SENDER = """
import sys
from megatron.launcher.uplink import LauncherGone, Uplink
uplink = Uplink(float(sys.argv[1]))
uplink.send(hello=uplink.next("name"))
print("printed by something else", flush=True)
uplink.start()
for number in range(6000):
    uplink.send(number=number, filling="x" * 1000)
print("all sent", file=sys.stderr, flush=True)
try:
    list(uplink.receive())
except LauncherGone as gone:
    uplink.give_up()
    uplink.wait_for_room()
    uplink.send(number="dropped")
    uplink.close()
    print(gone, file=sys.stderr, flush=True)
"""


def start(silence: float) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", SENDER, str(silence)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    process.stdin.write(encode({"beat": True}) + b"words of a shell\n" + encode({"name": "node1"}))
    process.stdin.flush()
    return process


def test_nobody_reads_and_then_the_connection_ends() -> None:
    process = start(60)
    assert process.stdin is not None and process.stderr is not None
    assert process.stderr.readline() == b"printed by something else\n", "its output is for frames alone"
    assert process.stderr.readline() == b"all sent\n"
    process.stdin.close()
    process.stdin = None
    said = b""
    if select.select([process.stderr], [], [], 60)[0]:
        said = process.stderr.readline()
    process.kill()
    process.communicate()
    assert said == b"the connection to the launching machine has ended\n", "it waits for a reader that is gone"


def test_silence_is_noticed() -> None:
    process = start(1)
    assert process.wait(90) == 0 and process.stderr is not None
    assert process.stderr.read().endswith(b"nothing heard from the launching machine for 1 s\n")
    process.communicate()


def test_what_is_sent_arrives_in_order() -> None:
    process = start(60)
    assert process.stdin is not None and process.stdout is not None
    splitter, found = Splitter(), []
    while len(found) < 6001:
        found += splitter.feed(os.read(process.stdout.fileno(), 65536))
    process.kill()
    process.communicate()
    assert found[0] == {"hello": "node1"}
    assert [frame["number"] for frame in found[1:]] == list(range(6000))
