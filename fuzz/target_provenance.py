"""A statement of provenance from any bytes, and the entry with its secrets struck out."""

from __future__ import annotations

from functools import partial

import msgspec

from fuzz.harness import refused_or_taken
from towline.core.inventory import parse_provenance
from towline.core.inventory._provenance import strike_provenance

MANIFEST = "sha256:" + "1" * 64
ATTESTATION = "sha256:" + "2" * 64


def run(data: bytes) -> None:
    for named in (True, False):
        entry = refused_or_taken(partial(parse_provenance, data, MANIFEST, ATTESTATION, named=named))
        if entry is None:
            continue
        assert (entry.build_config_digest is None) == (entry.build_config_digest_source is None)
        msgspec.json.encode(entry)
        struck = strike_provenance(entry)
        assert (struck.attested_manifest_digest, struck.attestation_manifest_digest) == (MANIFEST, ATTESTATION)
        msgspec.json.encode(struck)
