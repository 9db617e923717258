"""A proxy in front of a server that counts round trips: how often its clients wait for an answer."""

import contextlib
import re
import socket
import threading
from collections.abc import Sequence
from types import TracebackType


class RoundTrips:
    def __init__(self, port: int, *, except_for: Sequence[bytes] = ()):
        """Questions with a text of `except_for` do not count, also where PostgreSQL hears it once and then a name."""
        self._target = port
        self._except_for = except_for
        self._excepted: set[bytes] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.count = 0
        self._counting = threading.Lock()
        self._sockets: list[socket.socket] = [self._listener]

    def __enter__(self) -> "RoundTrips":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._sockets:
            _end(one)

    def cut(self) -> None:
        """Ends every connection that there is; new ones are taken."""
        with_clients, self._sockets = self._sockets[1:], self._sockets[:1]
        for one in with_clients:
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            asked = threading.Event()
            threading.Thread(target=self._pass, args=(client, server, asked, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, asked, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asked: threading.Event, asks: bool) -> None:
        """Several pieces of one question, and several of one answer, are one round trip."""
        try:
            while data := source.recv(65536):
                if asks and not asked.is_set():
                    asked.set()
                    with self._counting:
                        self.count += self._counts(data)
                elif not asks:
                    asked.clear()
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                _end(one)

    def _counts(self, question: bytes) -> bool:
        for name, statement in re.findall(rb"(__asyncpg_stmt_\w+?__)\0([^\0]*)", question):
            if any(text in statement for text in self._except_for):
                self._excepted.add(name)
        return not any(text in question for text in (*self._except_for, *self._excepted))


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # Wakes the other thread, which closing does not.
    one.close()
