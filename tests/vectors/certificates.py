"""Certificates for the names of vendors, signed by an authority of a test's own."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(folder: Path, names: list[str]) -> tuple[Path, Path]:
    """Write ca.pem, and a certificate for all the names; return its chain's and its key's file."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of the tests")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vendors")])
    authority = _builder(issuer, issuer, authority_key.public_key(), x509.BasicConstraints(True, None))
    own = _builder(subject, issuer, key.public_key(), x509.BasicConstraints(False, None)).add_extension(
        x509.SubjectAlternativeName([_name(name) for name in names]), False
    )
    (folder / "ca.pem").write_bytes(
        authority.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    chain, secret = folder / "vendors.pem", folder / "vendors.key"
    chain.write_bytes(own.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, constraints: x509.BasicConstraints
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(constraints, True)
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
