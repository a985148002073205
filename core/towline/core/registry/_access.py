"""Asking with a login: the re-authentication machine, told as a story.

A request goes with what the registry took before, else with nothing. A 401 is answered as *its* challenge
says, each way at most once: a token for the scope it demands, for another scope added, or Basic. A token
that was issued a moment ago for exactly the demanded scope and is refused means no; so does a 403. A login
that was refused is not tried again until the configuration changes: servers count, and some lock out.

Source:  registries-common.md §4, "The re-authentication machine"
"""

from __future__ import annotations

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._script import HeaderList, Request, Step, clock
from towline.core._secret import Secret
from towline.core.http import BlockedRedirect, Url
from towline.core.registry._alone import once_for_all
from towline.core.registry._call import FORM, call, form
from towline.core.registry._challenge import Challenge, parse_challenges, select
from towline.core.registry._failure import What, failure
from towline.core.registry._realm import RealmVerdict, realm_allowed
from towline.core.registry._send import Reply, Want, follow_token, send
from towline.core.registry._session import Registry, Shown, TokenKey
from towline.core.registry._token import (
    Credentials,
    TokenAnswer,
    TokenRefused,
    parse_token_answer,
    token_url,
    wanted_scopes,
)

# A login check, the demanded scope, another scope added: more tokens for one request would be a loop.
_TOKENS_PER_REQUEST = 2
# Who asks, where a token server wants to know.
_CLIENT_ID = "towline"
# What servers say that know GET alone.
_NO_SUCH_FORM = (400, 404, 405)


class Ask(Record, frozen=True):
    """A request to a registry. `need` is the scope it takes, None for a login check."""

    what: What
    url: Url
    need: str | None
    want: Want
    method: str = "GET"
    headers: HeaderList = ()


class _Tried:
    """What was tried for one request, so that nothing is tried twice."""

    def __init__(self) -> None:
        self.issued: list[TokenKey] = []
        self.borrowed = False
        self.basic = False
        self.renewed = False


def ask(registry: Registry, wanted: Ask) -> Step[Reply]:
    """Send a request with the login it takes; return the answer of any status but 401 and 403 of the registry.

    A 401 or 403 from another origin (object storage) is returned: it says nothing about our login.

    Raises:  registry-unauthorized, registry-forbidden, realm-blocked, and what `send` raises
    """
    registry.check_not_refused()
    tried = _Tried()
    shown = yield from _first(registry, wanted, tried)
    while True:
        headers = wanted.headers if shown is None else (*wanted.headers, ("authorization", shown.header))
        try:
            reply = yield from send(registry, Request(wanted.method, str(wanted.url), headers), wanted.want)
        except BlockedRedirect as blocked:
            raise _landing(registry, blocked) from None
        if reply.url.origin != wanted.url.origin:
            # The registry let us in and sent us on; what the other host says is about the address it was given.
            if shown is not None:
                registry.worked(wanted.need, shown)
            return reply
        if shown is not None and not tried.renewed and _expired(registry, reply, shown, tried):
            tried.renewed = True
            registry.forget(shown)
            shown = yield from _first(registry, wanted, tried)
            continue
        if reply.status == 401:
            shown = yield from _answer_challenge(registry, wanted, reply, shown, tried)
            continue
        if reply.status == 403:
            raise failure(registry, wanted.what, wanted.method, reply.head, reply.url, reply.body)
        if shown is not None and reply.status < 400:
            registry.worked(wanted.need, shown)
        return reply


def _landing(registry: Registry, blocked: BlockedRedirect) -> RemoteProtocolError:
    """Return what a redirect means that leads to a page for people: data of the dialect, where it is known."""
    kind = dict(registry.dialect.landings).get(blocked.target.host if blocked.target is not None else "")
    if kind is None:
        return blocked
    hint = registry.dialect.catalogue_hint if kind == "catalog-unsupported" else registry.dialect.landing_hint
    return RemoteProtocolError(kind, blocked.message, hint=hint, registry_status=blocked.registry_status)


def let_in(registry: Registry) -> Step[None]:
    """Log in as `/v2/` demands, before a request that everybody is answered and only we in full.

    Raises:  as `ask` does
    """
    if registry.credentials is None or registry.way(None) is not None:
        return
    registry.check_not_refused()
    wanted = Ask("ping", registry.url(""), None, Want(registry.limits.registry_error_body))
    reply = yield from send(registry, Request("GET", str(wanted.url)), wanted.want)
    if reply.status == 401:
        shown = yield from _answer_challenge(registry, wanted, reply, None, _Tried())
        if shown is not None:
            registry.worked(None, shown)


def _expired(registry: Registry, reply: Reply, shown: Shown, tried: _Tried) -> bool:
    """Tell whether an answer means that what was shown has had its time, so that the same way leads on."""
    sign = registry.dialect.expired
    if sign is not None and reply.status >= 400 and sign(reply.head, reply.body):
        return True
    if reply.status != 401 or shown.key is None or shown.key in tried.issued:
        return False
    # A token that worked before is refused without a word on how to get another: as it was got the first time. So
    # it is where only a login is asked for, and the token was one for everybody.
    challenge = select(parse_challenges(reply.head.all("www-authenticate"), registry.limits))
    return challenge is None or (challenge.scheme == "basic" and registry.credentials is None)


def _first(registry: Registry, wanted: Ask, tried: _Tried) -> Step[Shown | None]:
    if registry.dialect.log_in is not None:
        return (yield from registry.dialect.log_in(registry))
    key = registry.way(wanted.need)
    if key is not None:
        return (yield from _held_or_new(registry, key, tried))
    if registry.presents_basic(wanted.need):
        tried.basic = True
        return registry.basic()
    return None


def _answer_challenge(
    registry: Registry, wanted: Ask, reply: Reply, shown: Shown | None, tried: _Tried
) -> Step[Shown | None]:
    challenge = select(parse_challenges(reply.head.all("www-authenticate"), registry.limits))
    if challenge is None:
        raise _denied(registry, wanted, reply, "no challenge that can be answered")
    if challenge.scheme == "basic":
        return _turn_to_basic(registry, wanted, reply, tried)
    key = _key_for(registry, wanted, challenge, tried)
    if shown is not None:
        registry.forget(shown)
    now = yield from clock()
    cached = registry.cached(key, now)
    if cached is not None and key not in tried.issued and not tried.borrowed and cached != shown:
        tried.borrowed = True
        return cached
    if key in tried.issued or len(tried.issued) >= _TOKENS_PER_REQUEST:
        raise _denied(registry, wanted, reply, "a refusal of the token that was just issued for it")
    return (yield from _held_or_new(registry, key, tried))


def _turn_to_basic(registry: Registry, wanted: Ask, reply: Reply, tried: _Tried) -> Shown:
    if registry.credentials is not None and not tried.basic:
        tried.basic = True
        return registry.basic()
    refused = failure(registry, wanted.what, wanted.method, reply.head, reply.url, reply.body)
    if registry.credentials is None:
        refused.hint = "this registry wants a login: give a user name and a password or token"
        raise refused
    if not tried.issued and (wanted.need is None or registry.dialect.basic_refusal == "login"):
        raise registry.refuse(refused)
    raise _denied(registry, wanted, reply, "a refusal of the login for it")


def _denied(registry: Registry, wanted: Ask, reply: Reply, came: str) -> RemoteProtocolError:
    error = failure(registry, wanted.what, wanted.method, reply.head, reply.url, reply.body)
    error.message = f"{error.message}: {came}"
    error.args = (error.message,)
    if registry.credentials is None:
        error.hint = "the registry gives this to nobody without a login: give a user name and a password or token"
    else:
        error.kind = "registry-forbidden"
        catalogue = wanted.what == "catalogue"
        error.hint = registry.dialect.catalogue_hint if catalogue else registry.dialect.denial_hint
    return error


def _key_for(registry: Registry, wanted: Ask, challenge: Challenge, tried: _Tried) -> TokenKey:
    realm = challenge.get("realm")
    if registry.dialect.realm_may_be_plain:
        realm = _on_tls(registry, realm)
    verdict = _judge(registry, realm)
    scopes = wanted_scopes(challenge.get("scope"), wanted.need, registry.dialect.scopes)
    if tried.issued:
        # The token just issued does not suffice: what is demanded comes in addition, the new scope first.
        scopes = tuple(dict.fromkeys((*scopes, *tried.issued[-1].scopes)))
    if not verdict.send_credentials and (registry.credentials is not None or verdict.rule != "unrelated-host"):
        raise RemoteProtocolError(
            "realm-blocked",
            f"expected a token realm on {registry.base.host} or a related host, got {_host(realm)} ({verdict.rule})",
            hint=f"if {_host(realm)} is the registry's token server, list it among the allowed realm hosts",
        )
    return TokenKey(realm, challenge.get("service"), scopes, registry.username)


def _on_tls(registry: Registry, realm: str) -> str:
    """Return a realm that names the registry itself as if it had no TLS at the address that has it."""
    base = registry.base
    plain = f"http://{base.authority}/"
    return (
        f"https://{base.authority}/{realm[len(plain) :]}"
        if base.scheme == "https" and realm.startswith(plain)
        else realm
    )


def _judge(registry: Registry, realm: str) -> RealmVerdict:
    return realm_allowed(registry.base, realm, registry.allowed_realm_hosts, registry.dialect.realm_hosts)


def _host(realm: str) -> str:
    try:
        return Url.parse(realm).host
    except RemoteProtocolError:
        return "an address that cannot be read"


def _held_or_new(registry: Registry, key: TokenKey, tried: _Tried) -> Step[Shown]:
    def get() -> Step[Shown]:
        tried.issued.append(key)
        return (yield from _obtain(registry, key))

    return (yield from once_for_all(registry, key, lambda now: registry.cached(key, now), get))


def _obtain(registry: Registry, key: TokenKey) -> Step[Shown]:
    """Ask the realm for a token. Without credentials nothing secret is sent, so the realm may be unrelated."""
    own = registry.dialect.exchange
    answer = None if own is None else (yield from own(registry, key))
    if answer is None and registry.credentials is not None and registry.credentials.identity_token is not None:
        answer = yield from _by_identity_token(registry, key, registry.credentials.identity_token)
    if answer is None:
        answer = yield from obtain_with(registry, key, registry.credentials)
    now = yield from clock()
    return registry.keep(key, answer.token, answer.lifetime, now)


def _by_identity_token(registry: Registry, key: TokenKey, token: Secret) -> Step[TokenAnswer | None]:
    """Ask the realm as OAuth 2 does, with what a login helper keeps; None where the server has no such form.

    Source:  distribution docs, spec/auth/oauth
    """
    fields: dict[str, str | Secret] = {
        "grant_type": "refresh_token",
        "service": key.service,
        "client_id": _CLIENT_ID,
        "scope": " ".join(key.scopes),
        "refresh_token": token,
    }
    if not _judge(registry, key.realm).send_credentials:
        raise RemoteProtocolError("realm-blocked", f"expected a related token realm, got {_host(key.realm)}")
    reply = yield from call(registry, Request("POST", key.realm, (FORM,), form(fields)))
    if reply.status in _NO_SUCH_FORM and registry.credentials is not None and registry.credentials.secret:
        return None
    answer = parse_token_answer(reply.status, reply.body, registry.limits)
    if isinstance(answer, TokenRefused):
        raise _no_token(registry, reply, answer, Url.parse(key.realm))
    return answer


def obtain_with(registry: Registry, key: TokenKey, who: Credentials | None) -> Step[TokenAnswer]:
    """Ask the realm for a token the protocol's way: GET, with Basic where there is a login.

    Raises:  registry-unauthorized, registry-rate-limited, registry-error, protocol-error, what a request raises
    """
    url = token_url(Url.parse(key.realm), key.service, key.scopes)
    headers: HeaderList = (("accept", "application/json"),)
    if who is not None:
        headers = (*headers, ("authorization", who.basic()))
    related = _judge(registry, key.realm).send_credentials
    request = Request("GET", str(url), headers, purpose="configured" if related else "untrusted")
    want = Want(registry.limits.registry_token_answer)
    reply = yield from send(registry, request, want, lambda request: follow_token(registry, request))
    answer = parse_token_answer(reply.status, reply.body, registry.limits)
    if isinstance(answer, TokenRefused):
        raise _no_token(registry, reply, answer, url)
    return answer


def _no_token(registry: Registry, reply: Reply, answer: TokenRefused, url: Url) -> RemoteProtocolError:
    error = failure(registry, "token", "GET", reply.head, url, reply.body)
    if reply.status == 200:
        error.message = f"expected a token from {url.origin}{url.path}, got a 200 without: {answer.said}"
        error.args = (error.message,)
    error.kind = answer.kind
    error.hint = None
    if answer.kind == "registry-unauthorized":
        if registry.credentials is not None:
            error.hint = registry.dialect.login_hint
            return registry.refuse(error)
        error.hint = "this registry wants a login: give a user name and a password or token"
    return error
