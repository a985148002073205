"""One table of everything that can go wrong, and the two families of errors that carry its rows.

A `kind` is stable and kebab-case; the API code of agent.md §5.1 is the same words in capitals
(`digest-mismatch`, `DIGEST_MISMATCH`). `status` is what a server should answer when the error ends a
request, `retryable` whether the same request may succeed later.
"""

from __future__ import annotations

from typing import Final

from towline.core._contract import Record


class Kind(Record, frozen=True):
    """One row: what an error of this kind means to whoever has to answer for it."""

    status: int
    retryable: bool
    meaning: str


KINDS: Final[dict[str, Kind]] = {
    # the request itself
    "bad-request": Kind(400, False, "the request cannot be understood"),
    "invalid-name": Kind(400, False, "not a repository name"),
    "invalid-reference": Kind(400, False, "not an image reference, tag or digest"),
    "unsupported-type": Kind(400, False, "not a registry type"),
    "ambiguous-credentials": Kind(400, False, "credentials came twice and differ"),
    "missing-credentials": Kind(400, False, "credentials are needed and did not come"),
    "malformed-credentials": Kind(400, False, "credentials cannot be read"),
    "invalid-configuration": Kind(400, False, "a setting is missing or cannot be read"),
    "caller-unauthorized": Kind(403, False, "the caller could not prove who it is"),
    "not-found": Kind(404, False, "there is nothing at this path"),
    "method-not-allowed": Kind(405, False, "the path exists, the method does not"),
    "job-not-found": Kind(404, False, "no job has this id"),
    "idempotency-conflict": Kind(409, False, "the key was used for another request"),
    "request-too-large": Kind(413, False, "the request's body or head passes its limit"),
    # the filter and the tunnel
    "denied": Kind(401, False, "no accept rule lets the request through"),
    "no-connection": Kind(404, False, "no client is connected for this token"),
    "connection-not-ready": Kind(503, True, "the client is expected back"),
    "tunnel-lost": Kind(502, True, "the tunnel ended before the answer came"),
    "tunnel-protocol": Kind(502, False, "the peer broke the tunnel protocol"),
    "tunnel-refused": Kind(502, True, "the server refused the tunnel"),
    "too-busy": Kind(503, True, "a bounded queue is full"),
    # the registry
    "registry-unauthorized": Kind(401, False, "the registry refused the login"),
    "registry-forbidden": Kind(403, False, "the login is good, the right is missing"),
    "repository-not-found": Kind(404, False, "the registry has no such repository"),
    "image-not-found": Kind(404, False, "the repository has no such image"),
    "platform-not-found": Kind(404, False, "the index has no image for this platform"),
    "catalog-unsupported": Kind(501, False, "the registry has no catalogue"),
    "image-too-large": Kind(413, False, "the image is larger than allowed"),
    "unsupported-artifact": Kind(422, False, "not a container image"),
    "unsupported-media-type": Kind(422, False, "a media type that is not handled"),
    "invalid-manifest": Kind(422, False, "the manifest or config cannot be read"),
    "registry-rate-limited": Kind(429, True, "the registry asks to slow down"),
    "registry-unreachable": Kind(502, True, "no connection to the registry, or it broke"),
    "registry-error": Kind(502, True, "the registry failed"),
    "tls-error": Kind(502, False, "the peer's certificate is not acceptable"),
    "proxy-error": Kind(502, True, "the proxy refused or failed"),
    "timeout": Kind(504, True, "a time limit passed"),
    # bytes and answers that cannot be trusted
    "digest-mismatch": Kind(502, False, "the bytes do not have the promised digest"),
    "size-mismatch": Kind(502, False, "the bytes do not have the promised length"),
    "protocol-error": Kind(502, False, "the peer broke its protocol"),
    "list-loop": Kind(502, False, "a listing's pages go in circles"),
    "list-limit": Kind(502, False, "a listing passes its limits"),
    "bomb": Kind(502, False, "a small input unpacks to too much"),
    "bad-archive": Kind(502, False, "a layer's archive cannot be read"),
    "realm-blocked": Kind(502, False, "the token realm is a host credentials may not go to"),
    "redirect-blocked": Kind(502, False, "a redirect leads where it must not"),
    "address-blocked": Kind(502, False, "the dial guard refuses this address"),
    # the agent
    "queue-full": Kind(429, True, "no more jobs are taken right now"),
    "insufficient-disk": Kind(503, True, "the work directory is full"),
    "shutting-down": Kind(503, True, "the program is stopping"),
    "undeliverable": Kind(502, False, "the receiver refuses the callback for good"),
    "crash-loop": Kind(500, False, "the job ended the agent several times"),
    "cancelled": Kind(409, False, "the job was cancelled"),
    # ourselves
    "broke-the-law": Kind(500, False, "the caller of a machine broke its contract"),
    "internal": Kind(500, True, "a fault of ours"),
}


class TowlineError(Exception):
    """Something went wrong, and this says what was expected, what came and where.

    `message` never holds a secret. `hint` says what to change. `retry_after` is in seconds.
    `registry_status` and `registry_code` are what the registry itself said, where it did.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        registry_status: int | None = None,
        registry_code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.retry_after = retry_after
        self.registry_status = registry_status
        self.registry_code = registry_code

    @property
    def code(self) -> str:
        """The API code: `DIGEST_MISMATCH` for the kind `digest-mismatch`."""
        return self.kind.upper().replace("-", "_")

    @property
    def status_hint(self) -> int:
        """The HTTP status to answer with if this error ends a request."""
        return KINDS[self.kind].status

    @property
    def retryable(self) -> bool:
        return KINDS[self.kind].retryable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind!r}, {self.message!r})"

    def __eq__(self, other: object) -> bool:
        # Equal by value, because errors travel inside records, which are.
        if not isinstance(other, TowlineError):
            return NotImplemented
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.kind, self.message))


class LocalProtocolError(TowlineError):
    """Our caller broke the contract. Raised; the machine is unchanged."""

    def __init__(self, message: str) -> None:
        super().__init__("broke-the-law", message)


class RemoteProtocolError(TowlineError):
    """The peer broke its word, or what was asked for is not so. Carried by `Failed`, raised inside scripts."""
