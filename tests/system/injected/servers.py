"""Servers that are none: what a wrong address, a dead proxy or a foreign certificate looks like from outside."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable

from tests.lab.api_tls import make_certificate
from tests.system.injected.row import Scene


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refusing(scene: Scene) -> None:
    """Nobody listens at the kubeconfig's address."""
    scene.cluster(server=f"https://127.0.0.1:{unused_port()}")


def silent(scene: Scene) -> None:
    """Connections are taken and nothing is ever said."""
    _listen(scene, lambda connection: None)


def hanging_up(scene: Scene) -> None:
    """Connections are taken and closed."""
    _listen(scene, lambda connection: connection.close())


def plain(scene: Scene) -> None:
    """HTTP where the kubeconfig says HTTPS."""

    def answer(connection: socket.socket) -> None:
        connection.settimeout(5)
        connection.recv(65536)  # what is not read when a connection is closed resets it
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        connection.close()

    _listen(scene, answer)


def expired(scene: Scene) -> None:
    """A certificate of the kubeconfig's authority whose time is over."""
    certificate, key = make_certificate(days=(-30, -1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(file.name)

    def greet(connection: socket.socket) -> None:
        connection.settimeout(5)
        context.wrap_socket(connection, server_side=True).close()

    authority = scene.directory / "ca.crt"
    authority.write_text(certificate)
    _listen(scene, greet, {"certificate-authority": str(authority), "certificate-authority-data": None})


def _listen(scene: Scene, answer: Callable[[socket.socket], object], settings: dict[str, object] | None = None) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            taken.append(connection)
            scene.taken.append(connection)
            with contextlib.suppress(OSError):
                answer(connection)

    def close() -> None:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for connection in taken:
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    scene.on_exit.append(close)
    scene.cluster(server=f"https://127.0.0.1:{listener.getsockname()[1]}", **(settings or {}))
