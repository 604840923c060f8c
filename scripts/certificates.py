"""Makes a TLS authority and the coordinator's server certificate."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import AlreadyExists
from common.identity import write_secret

# Hospitals' clocks may lag; a certificate that is not valid yet is a confusing first error.
CLOCK_SKEW = dt.timedelta(hours=1)
LOOPBACK_NAMES = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the coordinator; the hospitals get the first one only."""

    root_certificates: Path
    certificate: Path
    certificate_key: Path


def write_tls(folder: Path, hosts: Sequence[str], *, valid_days: int) -> TlsFiles:
    """Make an authority that signs one server certificate, and write ca.crt, server.crt and server.key (0600).

    The authority's private key is never written: nothing can sign a second certificate later. A new certificate means
    a new authority, which the hospitals get like the first one.

    Args:
        folder: Existing folder that holds none of the three files.
        hosts: DNS names and IP addresses that hospitals use; localhost and 127.0.0.1 are added.
        valid_days: Life of both certificates, days, >= 1.

    Raises:
        AlreadyExists: If one of the files is there.
        KeyFileError: If the key cannot be written.
    """
    files = TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    now = dt.datetime.now(dt.UTC)
    validity = (now - CLOCK_SKEW, now + dt.timedelta(days=valid_days))
    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = _authority_certificate(authority_key, validity)
    server = _server_certificate(server_key, authority, authority_key, names=(*hosts, *LOOPBACK_NAMES))
    _write_public(files.root_certificates, authority.public_bytes(serialization.Encoding.PEM))
    _write_public(files.certificate, server.public_bytes(serialization.Encoding.PEM))
    key_pem = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(files.certificate_key, key_pem)
    return files


def _authority_certificate(
    key: ec.EllipticCurvePrivateKey, validity: tuple[dt.datetime, dt.datetime]
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedward certificate authority")])
    usage = _key_usage(signs_certificates=True)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    *,
    names: Sequence[str],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedward coordinator")])
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(authority.not_valid_before_utc)
        .not_valid_after(authority.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_public(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError as error:
        raise AlreadyExists(f"{path}: exists; keys are never overwritten; name an empty folder") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
