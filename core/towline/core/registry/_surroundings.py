"""What a login may draw on beside a name and a secret: the machine it runs on, and a role it may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._secret import Secret


def _no_file(path: str) -> bytes:
    raise RemoteProtocolError("invalid-configuration", f"expected a file that may be read, got {path}")


def _no_signer(private_key: Secret, data: bytes) -> bytes:
    raise RemoteProtocolError(
        "invalid-configuration",
        "expected something that signs with a private key, got nothing",
        hint='service-account keys need "towline[gcp]"',
    )


class Surroundings(Record, frozen=True):
    """Environment, files and signatures, as the program hands them in; the core reads none of them itself.

    Shape:   `variables` are the environment; `read_file` returns a small file, such as a token that is written
             anew while we run, and is called each time it is needed; `sign` returns the RS256 signature of bytes
             with a private key in PEM
    Raises:  `read_file` and `sign`: RemoteProtocolError("invalid-configuration")
    """

    variables: Mapping[str, Secret] = msgspec.field(default_factory=dict)
    read_file: Callable[[str], bytes] = _no_file
    sign: Callable[[Secret, bytes], bytes] = _no_signer

    def variable(self, name: str) -> str:
        """Return a variable that is no secret; empty if it is not set."""
        value = self.variables.get(name)
        return value.reveal() if value is not None else ""

    def secret(self, name: str) -> Secret | None:
        """Return a variable that is a secret; None if it is not set, or empty."""
        return self.variables.get(name) or None


NOWHERE = Surroundings()


class Role(Record, frozen=True):
    """An AWS role to take: `arn`, the region of its registry, and the external id that its trust may want."""

    arn: str
    region: str
    external_id: Secret = Secret("")
