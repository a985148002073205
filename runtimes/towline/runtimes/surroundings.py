"""What a cloud's login may draw on here: this process's environment, small files, and an RS256 signer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from towline.core import RemoteProtocolError, Secret
from towline.core.registry import Surroundings

# A token of a cluster is some 2 KiB, a key file 2.3 KiB.
_LARGEST_FILE: Final = 64 * 1024


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    """Return this machine's surroundings. Which variable is secret nobody says, so all of them are."""
    return Surroundings({name: Secret(value) for name, value in environment.items()}, _read_file, _sign)


def _read_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise RemoteProtocolError("invalid-configuration", f"cannot read {path}: {error.strerror}") from None
    if len(content) > _LARGEST_FILE:
        raise RemoteProtocolError(
            "invalid-configuration", f"expected at most {_LARGEST_FILE} bytes in {path}, got more"
        )
    return content


def _sign(private_key: Secret, data: bytes) -> bytes:
    """Return the RS256 signature of bytes (RFC 7518 §3.3)."""
    try:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ModuleNotFoundError:
        raise RemoteProtocolError(
            "invalid-configuration", 'signing with a service account\'s key needs "towline[gcp]"'
        ) from None
    try:
        key = load_pem_private_key(private_key.reveal().encode(), None)
    except (ValueError, TypeError):
        # The library's own words may quote the key.
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise RemoteProtocolError("malformed-credentials", "expected an RSA key in PEM in the key file, got none")
    return key.sign(data, PKCS1v15(), SHA256())
