"""What pdsh runs here for each host: joins an ssh to the launcher's socket (ssh.py), then becomes that ssh.

Arguments: the socket's path, the host. Imports nothing of ours, so that hundreds of them start at once.
"""

import json
import os
import socket
import sys


def main() -> None:
    path, host = sys.argv[1:]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    connection.sendall(json.dumps(host).encode("ascii") + b"\n")
    command = json.loads(connection.makefile("rb", buffering=0).readline())
    for stream in (0, 1, 2):
        os.dup2(connection.fileno(), stream)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
