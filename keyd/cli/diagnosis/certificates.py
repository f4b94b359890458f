"""How long certificates still hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from keyd.cli.diagnosis.finding import Check, failed, passed, warned

_SOON = timedelta(days=30)


def check_certificate(name: str, path: Path, now: datetime | None = None) -> Check:
    """The first certificate of a PEM file."""
    now = now or datetime.now(UTC)
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return failed(name, f"{path}: {error}", "put a PEM certificate there")
    until = certificate.not_valid_after_utc
    told = f"{path} is valid until {until:%Y-%m-%d %H:%M} UTC"
    if now > until:
        return failed(name, told, "renew it; a daemon takes the new one on SIGHUP")
    if now < certificate.not_valid_before_utc:
        return failed(name, f"{path} is not valid yet", "set the clock right, or wait")
    if until - now < _SOON:
        return warned(name, told, "renew it; a daemon takes the new one on SIGHUP")
    return passed(name, told)
