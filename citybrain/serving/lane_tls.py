"""TLS between nodes: both ends show a certificate of the platform's private authority.

That authority has signed the certificates of this platform's nodes and nothing else, so who shows one
belongs to it. A gateway also asks that the certificate is for the address that it called.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import cast

from citybrain.core.settings import TlsFiles

PIECE = 1 << 18
HANDSHAKE_SECONDS = 5.0
SILENT_SECONDS = 10
"""After which the other end is taken for dead, if nothing it was sent is acknowledged."""


def context(files: TlsFiles, *, server: bool) -> ssl.SSLContext:
    """What one end demands of the other."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.verify_mode = ssl.CERT_REQUIRED
    found.check_hostname = not server
    found.load_cert_chain(files.certificate, files.key)
    found.load_verify_locations(files.authority)
    if server:
        found.num_tickets = 0  # nobody resumes
    return found


def watch_over(connection: socket.socket) -> None:
    """Send at once, and notice a machine that is gone: it says nothing, where a process hangs up."""
    tcp = socket.IPPROTO_TCP
    for level, option, value in (
        (tcp, socket.TCP_NODELAY, 1),
        (tcp, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (tcp, socket.TCP_KEEPIDLE, SILENT_SECONDS // 2),
        (tcp, socket.TCP_KEEPINTVL, 2),
        (tcp, socket.TCP_KEEPCNT, 3),
    ):
        connection.setsockopt(level, option, value)


class TlsConnection:
    """The replica's end. One thread reads while others write, which `ssl.SSLSocket` cannot do.

    The state of the encryption is locked for moments only, never while the network is waited for.
    """

    def __init__(self, raw: socket.socket, ours: ssl.SSLContext) -> None:
        self._raw = raw
        self._came, self._leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = ours.wrap_bio(self._came, self._leaves, server_side=True)
        self._state, self._sending = threading.Lock(), threading.Lock()

    def shake_hands(self, seconds: float = HANDSHAKE_SECONDS) -> None:
        """Learn who is there; OSError (`ssl.SSLError`, `TimeoutError`) for a stranger."""
        until = time.monotonic() + seconds
        while True:
            self._raw.settimeout(max(0.01, until - time.monotonic()))
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                if not self._receive(0):
                    raise ConnectionResetError("closed in the handshake") from None
                if time.monotonic() > until:
                    raise TimeoutError("too slow a handshake") from None
            except ssl.SSLError:
                self._flush()  # the other end is told why
                raise
        self._flush()
        self._raw.settimeout(None)

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """As of a socket; all of `buffer` is filled, as far as that was sent."""
        del nbytes
        while (got := self._read(buffer)) is None:
            if not self._receive(flags & socket.MSG_DONTWAIT):
                return 0
        return got

    def sendall(self, data: bytearray, /) -> None:
        """Write all of it, from any thread."""
        view = memoryview(data)
        with self._sending:
            for begin in range(0, len(view), PIECE):
                with self._state:
                    self._tls.write(view[begin : begin + PIECE])
                    ciphered = self._leaves.read()
                self._raw.sendall(ciphered)

    def close(self) -> None:
        """Hang up."""
        self._raw.close()

    def _receive(self, flags: int) -> bool:
        data = self._raw.recv(PIECE, flags)
        with self._state:
            self._came.write(data)
        return bool(data)

    def _read(self, buffer: memoryview) -> int | None:
        """What can be deciphered now; None: more must come first."""
        got = 0
        with self._state:
            try:
                while got < len(buffer):
                    # With a buffer it returns a number, whatever its annotation says.
                    more = cast(int, self._tls.read(len(buffer) - got, buffer[got:]))
                    if not more:
                        break
                    got += more
            except ssl.SSLWantReadError:
                if not got:
                    return None
            owed = self._leaves.pending  # new keys are answered with new keys
        if owed:
            self._flush()
        return got

    def _flush(self) -> None:
        with self._sending:
            with self._state:
                data = self._leaves.read()
            if data:
                self._raw.sendall(data)
