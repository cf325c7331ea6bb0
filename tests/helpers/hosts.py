"""Hosts without a cluster: fake `ssh` and `pdsh` first on PATH. Each host is a process tree on this machine.

The folder's files steer it: `refuses-HOST` (no login), `cut-HOST` (nothing passes any more, the connection stays open),
`twists/HOST` (code that every Python process on the host runs first; see `twists`).
`address-HOST` (what sshd says the host was reached at; 127.0.0.1 otherwise).
"""

import os
import sys
from pathlib import Path

# As the real one: what runs on the other side outlives this process, and sees only that its input has ended.
_SSH = """#!{python} -S
import json, os, subprocess, sys, threading, time
words = sys.argv[1:]
while words[0] == "-o":
    del words[:2]
host, command = words[0], " ".join(words[1:])
with open("{folder}/ssh.jsonl", "a") as log:
    log.write(json.dumps([host, sys.argv[1:], os.getpid()]) + "\\n")
if os.path.exists(f"{folder}/refuses-{{host}}"):
    sys.exit("Permission denied (publickey).") or 255
address = "127.0.0.1"
if os.path.exists(f"{folder}/address-{{host}}"):
    address = open(f"{folder}/address-{{host}}").read()
environment = {{
    "PATH": os.defpath, "HOME": os.environ["HOME"], "FAKE_HOST": host, "SSH_CONNECTION": f"127.0.0.1 1 {{address}} 22",
}}
if os.path.exists("{folder}/twists"):
    environment["PYTHONPATH"] = "{folder}/twists"
there = subprocess.Popen(
    ["sh", "-c", command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
)

def carry(source, target):
    while data := os.read(source, 65536):
        while os.path.exists(f"{folder}/cut-{{host}}"):
            time.sleep(0.1)
        os.write(target, data)
    os.close(target)

threading.Thread(target=carry, args=(0, there.stdin.fileno()), daemon=True).start()
carry(there.stdout.fileno(), 1)
os._exit(there.wait() % 256)
"""

_PDSH = """#!{python} -S
import json, os, subprocess, sys
words = sys.argv[1:]
with open("{folder}/pdsh.jsonl", "a") as log:
    log.write(json.dumps(words) + "\\n")
assert words[:2] == ["-R", "exec"], words
hosts = words[words.index("-w") + 1].split(",")
command = words[words.index("-w") + 2 :]
started = []
for n, host in enumerate(hosts):
    filled = [word.replace("%h", host).replace("%n", str(n)) for word in command]
    started.append(subprocess.Popen(filled, stdin=subprocess.PIPE, start_new_session=True))
sys.exit(max(process.wait() % 256 for process in started))
"""


_SITECUSTOMIZE = """
import os
path = os.path.join(os.path.dirname(__file__), os.environ.get("FAKE_HOST", ""))
if os.path.isfile(path):
    exec(compile(open(path).read(), path, "exec"))
"""


def twists(folder: Path) -> Path:
    """The folder for code that makes a host unlike the others, one file per host, named as it is."""
    made = folder / "twists"
    made.mkdir()
    (made / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    return made


def fake_programs(folder: Path) -> str:
    """A PATH with `ssh` and `pdsh` first that run everything here and note their arguments in folder/*.jsonl."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("ssh", _SSH), ("pdsh", _PDSH)):
        (programs / name).write_text(text.format(python=sys.executable, folder=folder))
        (programs / name).chmod(0o755)
    return f"{programs}{os.pathsep}{os.environ['PATH']}"
