"""The CA is made once; the certificate it issues is one TLS itself accepts, for the right host only."""

import socket
import ssl
import stat
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from f2b_server.certificates import make_ca, make_server_certificate
from face2bone_model.contract.errors import EnrolmentError


@pytest.fixture(scope="module")
def ca_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ca")
    make_ca(folder, "Bones")
    return folder


def handshake(certificate, key, ca, host):
    """A real handshake on loopback: the greeting of the server as a client that trusts only `ca` reads it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve():
            connection, _ = listener.accept()
            connection.settimeout(10)
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as secure:
                        secure.sendall(b"hello")
                except (ssl.SSLError, ConnectionError):
                    pass  # the client refused us: it raises what the test looks at

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            client = ssl.create_default_context(cafile=str(ca))
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as plain,
                client.wrap_socket(plain, server_hostname=host) as secure,
            ):
                return secure.recv(5)
        finally:
            thread.join(timeout=10)


def test_the_ca_is_made_once(tmp_path):
    path = make_ca(tmp_path, "Bones")
    first = path.read_bytes(), (tmp_path / "ca.key").read_bytes()
    assert make_ca(tmp_path, "Another name") == path
    assert (path.read_bytes(), (tmp_path / "ca.key").read_bytes()) == first


def test_private_keys_are_readable_by_their_owner_only(ca_folder):
    make_server_certificate(ca_folder, ["127.0.0.1"])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ca_folder.iterdir()}
    assert modes["ca.key"] == modes["server.key"] == 0o600
    assert modes["ca.pem"] == modes["server.pem"] == 0o644


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "centre.example"])
def test_a_client_that_trusts_the_ca_shakes_hands_with_the_server(tmp_path, ca_folder, host):
    certificate, key = make_server_certificate(ca_folder, ["127.0.0.1", "localhost", "centre.example"])
    assert handshake(certificate, key, ca_folder / "ca.pem", host) == b"hello"


@pytest.mark.parametrize("host", ["other.example", "127.0.0.2", "sub.centre.example"])
def test_another_host_is_refused(ca_folder, host):
    certificate, key = make_server_certificate(ca_folder, ["127.0.0.1", "localhost", "centre.example"])
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch|not valid for"):
        handshake(certificate, key, ca_folder / "ca.pem", host)


def test_a_client_of_another_ca_refuses_the_server(ca_folder, tmp_path):
    certificate, key = make_server_certificate(ca_folder, ["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(certificate, key, make_ca(tmp_path, "Bones"), "localhost")


def test_the_certificate_is_kept_while_it_covers_the_hosts_and_made_anew_when_not(tmp_path):
    make_ca(tmp_path, "Bones")
    certificate, key = make_server_certificate(tmp_path, ["localhost", "127.0.0.1"])
    first = certificate.read_bytes()
    make_server_certificate(tmp_path, ["localhost"])
    assert certificate.read_bytes() == first
    make_server_certificate(tmp_path, ["new.example"])
    assert certificate.read_bytes() != first
    assert handshake(certificate, key, tmp_path / "ca.pem", "new.example") == b"hello"


def test_the_server_certificate_cannot_sign_others(ca_folder):
    certificate, _ = make_server_certificate(ca_folder, ["localhost"])
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    ca = x509.load_pem_x509_certificate((ca_folder / "ca.pem").read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_missing_or_damaged_ca_is_named_and_never_replaced(tmp_path):
    with pytest.raises(EnrolmentError, match="Restore it from the backup"):
        make_server_certificate(tmp_path, ["localhost"])
    make_ca(tmp_path, "Bones")
    (tmp_path / "ca.key").write_bytes(b"damaged")
    with pytest.raises(EnrolmentError, match="cannot be read"):
        make_server_certificate(tmp_path, ["localhost"])
    assert (tmp_path / "ca.key").read_bytes() == b"damaged"


def test_a_ca_key_of_another_kind_is_refused(tmp_path):
    make_ca(tmp_path, "Bones")
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ca.key").write_bytes(pem)
    with pytest.raises(EnrolmentError, match="not an elliptic-curve key"):
        make_server_certificate(tmp_path, ["localhost"])
