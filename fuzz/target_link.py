"""Link lines, one a line: the next page is on the same origin and another page, or it is an error."""

from __future__ import annotations

from fuzz.harness import refused_or_taken
from towline.core.http import Url
from towline.core.registry import next_page

REQUEST = Url.parse("https://registry.example/v2/a/b/tags/list?n=2&last=a")


def run(data: bytes) -> None:
    lines = data.decode("latin-1").split("\n")
    url = refused_or_taken(lambda: next_page(REQUEST, lines))
    if url is not None:
        assert url.origin == REQUEST.origin
        assert url != REQUEST
        assert all("!" <= char <= "~" for char in url.target)
