"""A server that reads requests and throws them away: what a load generator costs without a server.

python benchmarks/_serving_sink.py PORT REPLY

Linux drops what TCP has received without copying it (tcp(7), MSG_TRUNC), so the sink itself takes next to nothing.
"""

from __future__ import annotations

import select
import socket
import sys
from pathlib import Path

_NOWHERE = bytearray(1 << 22)


def main() -> None:
    port, reply = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    with socket.create_server(("127.0.0.1", port)) as listening, select.epoll() as poll:
        poll.register(listening.fileno(), select.EPOLLIN)
        print("ready", flush=True)
        clients: dict[int, _Client] = {}
        while True:
            for fileno, _ in poll.poll():
                if fileno == listening.fileno():
                    client = _Client(listening.accept()[0], reply)
                    clients[client.socket.fileno()] = client
                    poll.register(client.socket.fileno(), select.EPOLLIN)
                elif not clients[fileno].on_ready():
                    clients.pop(fileno).socket.close()


class _Client:
    def __init__(self, accepted: socket.socket, reply: bytes) -> None:
        self.socket, self._reply, self._left = accepted, reply, 0
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_ready(self) -> bool:
        """Drop what is there of a request; answer its end. False where the client has gone."""
        if self._left == 0:
            head = self.socket.recv(4096, socket.MSG_PEEK)
            if not head:
                return False
            start, _, _ = head.partition(b"\r\n\r\n")
            length = int(start.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            self._left = len(start) + 4 + length
        self._left -= self.socket.recv_into(_NOWHERE, min(self._left, len(_NOWHERE)), socket.MSG_TRUNC)
        if self._left == 0:
            self.socket.sendall(self._reply)
        return True


if __name__ == "__main__":
    main()
