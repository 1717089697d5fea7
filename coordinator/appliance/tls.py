"""The appliance's own certificate authority and the server certificate that it signs.

Guarantees: after `ensure_certificates` there are a CA (`ca.crt`, `ca.key`) and a server certificate for the wanted
names (`server.crt`, `server.key`), each key with mode 0600 and written before the certificate that needs it, so that
an interrupted run is completed by the next. A server certificate from another authority is an operator's own and is
left alone. Does not: tell running workers; they notice a new certificate by themselves (api/listener.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.base.durable import write_file_durably

_ORGANISATION: Final = "Holdfast internal"  # the issuer of what we signed; anything else is an operator's own

# Some platforms refuse server certificates that are valid for more than 825 days, whoever signed them.
_SERVER_VALID: Final = timedelta(days=820)
_SERVER_RENEWED_BEFORE_END: Final = timedelta(days=180)
_CA_VALID: Final = timedelta(days=20 * 365)
_BACKDATED: Final = timedelta(hours=1)  # for clients whose clock is a little behind


class BadCertificate(Exception):
    """A key or certificate file in the tls folder cannot be used; the message is a sentence."""


def ensure_certificates(folder: Path, *, names: Sequence[str], now: datetime) -> None:
    """Complete `folder` so that `server.crt` is valid for `names` (host names or IP addresses). Raises OSError."""
    ca_key = _ensure_key(folder / "ca.key")
    ca = _read_certificate(folder / "ca.crt")
    if ca is None or ca.public_key() != ca_key.public_key():
        ca = _sign_ca(ca_key, now)
        write_file_durably(folder / "ca.crt", _pem(ca))
    server = _read_certificate(folder / "server.crt")
    if server is not None and not _is_ours(server):
        return
    server_key = _ensure_key(folder / "server.key")
    if server is None or _needs_renewal(server, server_key, ca, names, now):
        server = _sign_server(server_key, ca, ca_key, names, now)
        write_file_durably(folder / "server.crt", _pem(server))


def _is_ours(certificate: x509.Certificate) -> bool:
    organisations = certificate.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return [attribute.value for attribute in organisations] == [_ORGANISATION]


def _needs_renewal(
    server: x509.Certificate,
    server_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    names: Sequence[str],
    now: datetime,
) -> bool:
    return (
        not _is_signed_by(server, ca)
        or server.public_key() != server_key.public_key()
        or server.not_valid_after_utc - now < _SERVER_RENEWED_BEFORE_END
        or not set(_general_names(names)) <= set(_names_of(server))
    )


def _is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names_of(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    result: list[x509.GeneralName] = []
    for name in names:
        try:
            result.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            result.append(x509.DNSName(name))
    return result


def _sign_ca(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # The serial in the name keeps two appliances' authorities apart in a list of trusted certificates.
    serial = x509.random_serial_number()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Holdfast internal CA {serial % 16**8:08x}"),
        ]
    )
    usage = _key_usage(digital_signature=False, key_cert_sign=True, crl_sign=True)
    return (
        _certificate(subject=name, issuer=name, public_key=key.public_key(), serial=serial, now=now, valid=_CA_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _sign_server(
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    now: datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Holdfast")])
    usage = _key_usage(digital_signature=True, key_cert_sign=False, crl_sign=False)
    return (
        _certificate(
            subject=subject,
            issuer=ca.subject,
            public_key=key.public_key(),
            serial=x509.random_serial_number(),
            now=now,
            valid=_SERVER_VALID,
        )
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _certificate(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    serial: int,
    now: datetime,
    valid: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + valid)
    )


def _key_usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _ensure_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_file_durably(path, pem, mode=0o600)
        return key
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise BadCertificate(f"The key file {path} cannot be read: {error}.") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise BadCertificate(f"The key file {path} does not hold an elliptic-curve key.")
    return loaded


def _read_certificate(path: Path) -> x509.Certificate | None:
    if not path.exists():
        return None
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise BadCertificate(f"The certificate {path} cannot be read: {error}.") from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
