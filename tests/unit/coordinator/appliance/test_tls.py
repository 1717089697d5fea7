"""The appliance's certificates, over their life."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.appliance.tls import BadCertificate, ensure_certificates

NOW = datetime(2030, 5, 1, tzinfo=UTC)
NAMES = ("localhost", "127.0.0.1", "::1", "drive.example")


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_server_certificate_is_signed_by_the_ca_for_every_name(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, names=NAMES, now=NOW)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "drive.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert server.not_valid_before_utc < NOW < server.not_valid_after_utc


def test_python_takes_the_files(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, names=NAMES, now=datetime.now(UTC))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, names=NAMES, now=NOW)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("ca.key", "server.key")} == {0o600}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, names=NAMES, now=NOW)
    before = read_all(tmp_path)
    ensure_certificates(tmp_path, names=NAMES[:2], now=NOW + timedelta(days=30))
    assert read_all(tmp_path) == before


@pytest.mark.parametrize("lost", ["ca.crt", "server.crt", "server.key"])
def test_a_run_that_was_cut_short_is_completed(tmp_path: Path, lost: str) -> None:
    ensure_certificates(tmp_path, names=NAMES, now=NOW)
    (tmp_path / lost).unlink()
    ensure_certificates(tmp_path, names=NAMES, now=NOW)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    server.verify_directly_issued_by(ca)
    ensure_certificates(tmp_path, names=NAMES, now=NOW)


@pytest.mark.parametrize(("later", "names"), [(timedelta(days=700), NAMES), (timedelta(), (*NAMES, "other.example"))])
def test_it_is_renewed_near_its_end_and_for_a_new_name(
    tmp_path: Path, later: timedelta, names: tuple[str, ...]
) -> None:
    ensure_certificates(tmp_path, names=NAMES, now=NOW)
    before = read_all(tmp_path)
    ensure_certificates(tmp_path, names=names, now=NOW + later)
    after = read_all(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"server.crt"}


def test_an_operators_own_certificate_is_left_alone(tmp_path: Path) -> None:
    foreign = _certificate_of_another_authority()
    (tmp_path / "server.crt").write_bytes(foreign)
    ensure_certificates(tmp_path, names=NAMES, now=NOW)
    assert (tmp_path / "server.crt").read_bytes() == foreign


def test_a_key_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("nonsense")
    with pytest.raises(BadCertificate, match=r"ca\.key"):
        ensure_certificates(tmp_path, names=NAMES, now=NOW)


def _certificate_of_another_authority() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Trust")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
