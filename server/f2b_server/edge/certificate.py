"""The edge's certificate, exchanged while it runs: new handshakes get the new one, open connections go on."""

import logging
import ssl
from pathlib import Path

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward secrecy and authenticated encryption; for TLS 1.2, as 1.3 has no others."""

log = logging.getLogger(__name__)


class LiveCertificate:
    """The TLS context the edge listens with. For each handshake it takes the one made of the newest files."""

    def __init__(self, folder: Path) -> None:
        self._certificate, self._key = folder / "server.pem", folder / "server.key"
        self._stamp = self._now()
        self._newest = _context(self._certificate, self._key)
        self.context = _context(self._certificate, self._key)
        self.context.sni_callback = self._take_newest

    def refresh(self) -> bool:
        """Take up changed files; keep what there is where they do not fit together (yet). Whether it did."""
        stamp = self._now()
        if stamp == self._stamp:
            return False
        try:
            self._newest = _context(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            log.warning("The new server certificate cannot be used (%s); the old one stays.", error)
            return False
        self._stamp = stamp
        log.info("The server certificate was exchanged.")
        return True

    def _now(self) -> tuple[int, ...]:
        """What changes when a file is replaced."""
        try:
            states = [path.stat() for path in (self._certificate, self._key)]
        except OSError:
            return ()
        return tuple(part for state in states for part in (state.st_mtime_ns, state.st_ino, state.st_size))

    def _take_newest(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called for every handshake, also one that names no host."""
        connection.context = self._newest


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key)
    return context
