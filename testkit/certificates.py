"""Certificates for one test."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trustme


class Authority:
    """A CA and the certificates it signs, as files in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA(organization_name=name)
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str, not_after: datetime | None = None) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        issued = self._ca.issue_cert(*names, not_after=not_after)
        certificate, key = (self._folder / f"{self.file.stem}-{names[0]}{end}.pem" for end in ("", "-key"))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key


def tls(authority: Authority, *names: str, verify: bool = False, not_after: datetime | None = None) -> str:
    """Return the `tls` block of a nats-server with a certificate of this authority."""
    certificate, key = authority.issue(*(names or ("127.0.0.1",)), not_after=not_after)
    files = f'cert_file: "{certificate}", key_file: "{key}", ca_file: "{authority.file}"'
    return f"tls {{ {files}, verify: {str(verify).lower()} }}"
