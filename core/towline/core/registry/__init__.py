"""The registry: parsers of what registries say, and the conversations that read images from them."""

from towline.core.registry._challenge import Challenge, Challenges, parse_challenges, select
from towline.core.registry._diagnostics import ErrorReport, parse_error_body
from towline.core.registry._digest import Digest
from towline.core.registry._link import BadLink, next_page
from towline.core.registry._realm import RealmVerdict, realm_allowed
from towline.core.registry._reference import ImageReference, InvalidReference
from towline.core.registry._token import Credentials, TokenAnswer, TokenRefused, parse_token_answer

__all__ = [
    "BadLink",
    "Challenge",
    "Challenges",
    "Credentials",
    "Digest",
    "ErrorReport",
    "ImageReference",
    "InvalidReference",
    "RealmVerdict",
    "TokenAnswer",
    "TokenRefused",
    "next_page",
    "parse_challenges",
    "parse_error_body",
    "parse_token_answer",
    "realm_allowed",
    "select",
]
