"""The classic credential text, in each of its places: a login, or an error of a known kind without the value."""

from __future__ import annotations

from functools import partial

from fuzz.harness import refused_or_taken
from towline.core.agent import decode_credentials, encode_credentials, find_credentials


def run(data: bytes) -> None:
    text = data.decode("latin-1")
    login = refused_or_taken(lambda: decode_credentials(text))
    for name, value in (("x-registry-credentials", text), ("authorization", text), ("authorization", f"Cra {text}")):
        refused_or_taken(partial(find_credentials, "/systemcheck", [(name, value)]))
    if login is not None and login.type not in ("ecr", "digitalocean-cr"):
        made = encode_credentials(login.type, username=login.username, password=login.secret, base=login.base)
        again = decode_credentials(made.reveal())
        assert (again.username, again.secret, again.type) == (login.username, login.secret, login.type)
