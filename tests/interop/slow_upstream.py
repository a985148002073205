"""An upstream whose answers take their time, break off or never end, and that knows when its caller went away."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from agent_tools import _Server, reply


class SlowUpstream(_Server):
    """
    GET /list/slow/SECONDS    an answer after so long
    GET /list/drip            an answer without an end; `cut_at` is when nobody took it any more
    GET /list/hang            no answer; `cut_at` likewise
    GET /list/broken          a tenth of the million bytes that were announced, then the end
    """

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.cut_at: float | None = None

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        what, _, rest = asked.path.removeprefix("/list/").partition("/")
        if what == "slow":
            time.sleep(float(rest))
            reply(asked, 200, b"x" * 2000)
        elif what == "drip":
            asked.send_response(200)
            asked.end_headers()
            self.began.set()
            try:
                while True:
                    asked.wfile.write(b"d" * 4096)
                    time.sleep(0.02)
            except OSError:
                self.cut_at = time.monotonic()
        elif what == "hang":
            self.began.set()
            with suppress(OSError):
                asked.rfile.read(1)
            self.cut_at = time.monotonic()
        elif what == "broken":
            asked.send_response(200)
            asked.send_header("Content-Length", "1000000")
            asked.end_headers()
            asked.wfile.write(b"b" * 100_000)
        else:
            reply(asked, 200, b"{}")
        asked.close_connection = what != "slow"
