"""The way to the centre: directly or through a proxy, then TLS that trusts the kit's CA and nothing else."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from f2b_client.doctor.network_address import Address, connect
from f2b_client.doctor.network_proxy import Proxy, through
from f2b_client.doctor.outcome import blocked

TLS_SECONDS = 5.0
_NOT_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "UNKNOWN_PROTOCOL",
        "UNEXPECTED_MESSAGE",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "BAD_RECORD_TYPE",
        "INVALID_SESSION_ID",
    }
)


@dataclass(frozen=True, kw_only=True)
class Route:
    """Opens connections to the centre, each the way the SuperNode would."""

    address: Address
    proxy: Proxy | None
    ca: Path

    def plain(self) -> socket.socket:
        """A TCP connection, TLS not begun.

        Raises:
            BlockedError: it cannot be made.
        """
        return connect(self.address) if self.proxy is None else through(self.proxy, self.address)

    def secure(self) -> ssl.SSLSocket:
        """A TLS connection to a peer whose certificate the kit's CA signed for this host.

        Raises:
            BlockedError: there is no connection, or the other side does not speak TLS.
            ssl.SSLCertVerificationError: the certificate is not what it should be.
        """
        connection = self.plain()
        connection.settimeout(TLS_SECONDS)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=self.ca)
        try:
            return context.wrap_socket(connection, server_hostname=self.address.host)
        except ssl.SSLCertVerificationError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            raise self._no_tls(error) from error

    def _no_tls(self, error: OSError) -> Exception:
        reason = getattr(error, "reason", None) or ""
        if isinstance(error, TimeoutError):
            what = f"accepts the connection and then says nothing for {TLS_SECONDS:g} s"
            mend = (
                f"Ask IT whether a firewall holds TLS to {self.address} back, and the centre whether it runs."
            )
        elif isinstance(error, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
            what = "accepts the connection and cuts it when TLS begins"
            mend = f"Ask IT to exempt {self.address} from TLS filtering; ask the centre whether its SuperLink runs."
        elif reason in _NOT_TLS:
            what = f"speaks {self._spoken()}, not TLS"
            mend = "Compare the port with the kit; the SuperLink's port speaks TLS from the first byte."
        else:
            what = f"and this machine find no common version of TLS ({reason or error})"
            mend = (
                "The SuperLink offers TLS 1.2 and 1.3; ask IT which device in between speaks older ones only."
            )
        return blocked("tls", f"{self.address} {what}.", str(self.address), mend)

    def _spoken(self) -> str:
        try:
            with self.plain() as connection:
                connection.settimeout(TLS_SECONDS)
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                first = connection.recv(64).split(b"\n")[0].decode("ascii", "replace").strip()
        except OSError:
            return "something else"
        return "plain HTTP" if first.startswith("HTTP/") else f"another protocol ('{first[:20]}')"
