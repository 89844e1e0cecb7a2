"""The CA in the kit and the certificate the centre shows: right issuer, right name, valid today."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.network_route import TLS_SECONDS, Route
from f2b_client.doctor.outcome import BlockedError, blocked, passed, warned

CA_SOON = timedelta(days=30)
CERTIFICATE_SOON = timedelta(days=14)
_EXPIRED, _NOT_YET_VALID = 10, 9
_FOREIGN_NAME = (62, 64)
"""Of OpenSSL's X509_V_ERR_*: hostname and IP address mismatch."""


def read_ca(path: Path) -> x509.Certificate:
    """The CA certificate of the kit.

    Raises:
        BlockedError: it is missing, damaged or no CA.
    """
    mend = "Run `f2b-client join KIT` with the kit the centre sent; compare its SHA-256 by phone."
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except FileNotFoundError as error:
        raise blocked("ca", "The kit's CA certificate is missing.", str(path), mend) from error
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise blocked("ca", "The kit's CA certificate cannot be read.", str(path), mend) from error
    if not is_ca:
        raise blocked("ca", "The certificate in the kit is not that of a CA.", str(path), mend)
    return certificate


def check_ca(certificate: x509.Certificate, path: Path) -> Iterator[Finding]:
    """Say until when the CA is valid.

    Raises:
        BlockedError: it is not valid today.
    """
    now, until = datetime.now(UTC), certificate.not_valid_after_utc
    if until < now:
        raise blocked(
            "ca",
            f"The centre's CA expired on {until:%Y-%m-%d}.",
            str(path),
            f"Ask the centre for a new kit. This machine's clock says {now:%Y-%m-%d %H:%M} UTC; is that right?",
        )
    if certificate.not_valid_before_utc > now:
        raise blocked(
            "ca",
            f"The centre's CA is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC.",
            str(path),
            f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC; set it right.",
        )
    if until - now < CA_SOON:
        yield warned(
            "ca", f"The centre's CA expires on {until:%Y-%m-%d}.", str(path), "Ask the centre for a new kit."
        )
    else:
        yield passed("ca", f"The centre's CA is valid until {until:%Y-%m-%d}.", str(path))


def secure_connection(route: Route, ca: x509.Certificate) -> ssl.SSLSocket:
    """A TLS connection whose certificate was verified.

    Raises:
        BlockedError: no TLS, or the certificate is not what it should be; says whose it is.
    """
    try:
        return route.secure()
    except ssl.SSLCertVerificationError as error:
        raise _not_trusted(error, route, ca) from error


def check_certificate(connection: ssl.SSLSocket, where: str) -> Iterator[Finding]:
    """Say until when the centre's certificate is valid."""
    shown = connection.getpeercert(binary_form=True)
    certificate = x509.load_der_x509_certificate(shown or b"")
    until = certificate.not_valid_after_utc
    if until - datetime.now(UTC) < CERTIFICATE_SOON:
        yield warned(
            "certificate", f"The centre's certificate expires on {until:%Y-%m-%d}.", where, "Tell the centre."
        )
    else:
        yield passed(
            "certificate",
            f"{connection.version()}; signed by the kit's CA, valid until {until:%Y-%m-%d}.",
            where,
        )


def _not_trusted(error: ssl.SSLCertVerificationError, route: Route, ca: x509.Certificate) -> BlockedError:
    where, now = str(route.address), datetime.now(UTC)
    shown = _shown(route)
    if shown is None:
        what, mend = (
            f"The centre's certificate is refused: {error.verify_message}.",
            "Show this to the centre.",
        )
        return blocked("certificate", what, where, mend)
    if error.verify_code in _FOREIGN_NAME:
        what = f"The certificate is for {_names(shown)}, not for {route.address.host}."
        mend = "Ask the centre for a kit with the name its certificate carries, or for a certificate with this name."
    elif error.verify_code == _EXPIRED:
        what = f"The certificate expired on {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC."
        mend = (
            f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC. If that is right, the centre must renew it."
        )
    elif error.verify_code == _NOT_YET_VALID:
        what = f"The certificate is valid only from {shown.not_valid_before_utc:%Y-%m-%d %H:%M} UTC."
        mend = f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC; set it right. If it is, tell the centre."
    else:
        what, mend = _issuer_differs(shown, ca, route)
    return blocked("certificate", what, where, mend)


def _issuer_differs(shown: x509.Certificate, ca: x509.Certificate, route: Route) -> tuple[str, str]:
    if shown.issuer != ca.subject:
        what = f"The certificate was issued by '{_text(shown.issuer)}', expected '{_text(ca.subject)}'."
        mend = (
            "Something between here and the centre opens TLS, or this is another server. Ask IT to exempt "
            f"{route.address} from TLS inspection; do not add that issuer to joined/ca.pem."
        )
        return what, mend
    if _signed_by(shown, ca):
        return (
            f"The certificate of the right CA is refused for another reason: {_names(shown)}.",
            "Tell the centre.",
        )
    what = f"The certificate carries the CA's name '{_text(ca.subject)}' and another CA's signature."
    return (
        what,
        "Ask the centre by phone whether it made its CA anew. If so, ask for a new kit; if not, tell IT.",
    )


def _shown(route: Route) -> x509.Certificate | None:
    """The certificate the other side shows, looked at and not trusted: nothing is sent, and it is closed at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with route.plain() as connection:
            connection.settimeout(TLS_SECONDS)
            with context.wrap_socket(connection, server_hostname=route.address.host) as secure:
                return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError, BlockedError):
        return None


def _signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return _text(certificate.subject) or "no name"
    return ", ".join(str(name.value) for name in names)


def _text(name: x509.Name) -> str:
    return name.rfc4514_string()
