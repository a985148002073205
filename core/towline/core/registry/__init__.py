"""The registry: parsers of what registries say, and the conversations that read images from them.

A `Registry` is one registry with one login; scripts take it as their first argument:

    tags = yield from list_tags(registry, "team/app")
    image = yield from resolve_image(registry, "team/app", "1.0", Platform.parse("linux/arm64"))
    proved = yield from download_blob(registry, "team/app", image.layers[0], plan)
"""

from towline.core.registry._blob import Progress, download_blob, get_blob_document
from towline.core.registry._challenge import Challenge, Challenges, parse_challenges, select
from towline.core.registry._check import CheckStep, check, ping
from towline.core.registry._config import ContainerConfig, HistoryEntry, ImageConfig, RootFs, parse_config
from towline.core.registry._details import list_details, look_into
from towline.core.registry._diagnostics import ErrorReport, parse_error_body
from towline.core.registry._dialect import PLAIN, Dialect
from towline.core.registry._dialects import ALIASES, DIALECTS, TYPES, dialect_of, find_dialect
from towline.core.registry._digest import Digest, is_digest
from towline.core.registry._image import (
    ManifestHead,
    ResolvedImage,
    ResolvedManifest,
    choose,
    get_manifest,
    head_manifest,
    resolve_image,
    resolve_manifest,
    state_identifier,
)
from towline.core.registry._link import BadLink, next_page
from towline.core.registry._listing import list_repositories, list_tags
from towline.core.registry._manifest import Descriptor, ImageIndex, ImageManifest, Manifest, parse_manifest
from towline.core.registry._pace import Pace
from towline.core.registry._pages import Details, Listing, TagDetail
from towline.core.registry._platform import DEFAULT_PLATFORM, Platform
from towline.core.registry._realm import RealmVerdict, realm_allowed
from towline.core.registry._reference import (
    ImageReference,
    InvalidReference,
    check_reference,
    check_repository,
    is_path,
    is_tag,
)
from towline.core.registry._session import Registry, StreamNumbers
from towline.core.registry._surroundings import NOWHERE, Role, Surroundings
from towline.core.registry._token import Credentials, TokenAnswer, TokenRefused, parse_token_answer

__all__ = [
    "ALIASES",
    "BadLink",
    "Challenge",
    "Challenges",
    "CheckStep",
    "ContainerConfig",
    "Credentials",
    "DEFAULT_PLATFORM",
    "DIALECTS",
    "Descriptor",
    "Details",
    "Dialect",
    "Digest",
    "ErrorReport",
    "HistoryEntry",
    "ImageConfig",
    "ImageIndex",
    "ImageManifest",
    "ImageReference",
    "InvalidReference",
    "Listing",
    "NOWHERE",
    "PLAIN",
    "Manifest",
    "ManifestHead",
    "Pace",
    "Platform",
    "Progress",
    "RealmVerdict",
    "Registry",
    "ResolvedImage",
    "ResolvedManifest",
    "Role",
    "RootFs",
    "StreamNumbers",
    "Surroundings",
    "TYPES",
    "TagDetail",
    "TokenAnswer",
    "TokenRefused",
    "check",
    "check_reference",
    "check_repository",
    "choose",
    "dialect_of",
    "download_blob",
    "find_dialect",
    "get_blob_document",
    "get_manifest",
    "head_manifest",
    "is_digest",
    "is_path",
    "is_tag",
    "list_details",
    "list_repositories",
    "list_tags",
    "look_into",
    "next_page",
    "parse_challenges",
    "parse_config",
    "parse_error_body",
    "parse_manifest",
    "parse_token_answer",
    "ping",
    "realm_allowed",
    "resolve_image",
    "resolve_manifest",
    "select",
    "state_identifier",
]
