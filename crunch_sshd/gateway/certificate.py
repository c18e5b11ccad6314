"""A gateway's TLS certificate: self-signed, fresh for each gateway, kept in memory.

Its names are never checked; the proofs over its DER bytes (:mod:`arv_ssh.trust.credentials`) take a CA's place.
"""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from arv_ssh.net.tls import server_context

LIFETIME = timedelta(days=3650)
"""Longer than any container runs."""


def fresh() -> tuple[ssl.SSLContext, bytes]:
    """Return a server context with a new certificate, and that certificate in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "arv-ssh gateway")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with tempfile.TemporaryDirectory() as directory:  # OpenSSL reads keys from files only; this one is 0700
        path = Path(directory) / "gateway.pem"
        path.touch(mode=0o600)
        path.write_bytes(pem)
        context = server_context(str(path), str(path))
    return context, certificate.public_bytes(Encoding.DER)
