"""A private CA, made once and kept, and the TLS certificate of the SuperLink."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from face2bone_model.contract.errors import EnrolmentError
from face2bone_model.system.files import write_atomic

CA_DAYS = 3650
SERVER_DAYS = 397
PRIVATE = 0o600


def make_ca(folder: Path, study: str) -> Path:
    """Make the CA if there is none; return its certificate. A second call never makes a new one."""
    certificate_path = folder / "ca.pem"
    if certificate_path.exists():
        return certificate_path
    key = generate_private_key(SECP384R1())
    name = _name(f"face2bone CA of {study}")
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA384())
    )
    write_atomic(folder / "ca.key", _pem(key), mode=PRIVATE)
    write_atomic(certificate_path, certificate.public_bytes(Encoding.PEM))
    return certificate_path


def make_server_certificate(folder: Path, hosts: Sequence[str]) -> tuple[Path, Path]:
    """Issue the SuperLink's certificate for these host names and addresses, unless a valid one is there.

    Returns:
        Paths of the certificate chain and of the private key.

    Raises:
        EnrolmentError: the CA is missing or damaged.
    """
    certificate_path, key_path = folder / "server.pem", folder / "server.key"
    if certificate_path.exists() and key_path.exists() and _still_good(certificate_path, hosts):
        return certificate_path, key_path
    ca, ca_key = _load_ca(folder)
    key = generate_private_key(SECP384R1())
    certificate = (
        _builder(_name(hosts[0]), ca.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, SHA384())
    )
    write_atomic(key_path, _pem(key), mode=PRIVATE)
    write_atomic(certificate_path, certificate.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM))
    return certificate_path, key_path


def _load_ca(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    except (FileNotFoundError, ValueError) as error:
        raise EnrolmentError(f"The CA in {folder} cannot be read.", "Restore it from the backup.") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise EnrolmentError(f"{folder / 'ca.key'} is not an elliptic-curve key.")
    return certificate, key


def _still_good(path: Path, hosts: Sequence[str]) -> bool:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    covered = {str(name.value) for name in names}
    return set(hosts) <= covered and certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=30)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # hospital clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
