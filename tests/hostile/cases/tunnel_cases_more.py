"""Cases of our own, for the engine of the hostile kit: `python tests/hostile/tunnel.py serve|attack --cases FILE`."""

import asyncio
import json
import struct

from tunnelkit import MIB, POISON, Gone, emit, frame, tcase

S, C = "server", "client"


def case(name, side, stage, expect, why, seconds=30.0):
    """A case that the kit's own self-test does not know how to check."""
    return tcase(name, side, stage, expect, why, check=lambda raw: True, seconds=seconds)


# ── we are the broker server: the handshake ──────────────────────────────────
@case("more-srv-stall", S, "http", "closed", "takes the upgrade and never answers")
async def _(c):
    await c.pump(30)


def answers_instead(name, head, why):
    @case(f"more-srv-{name}", S, "http", "refused", why)
    async def _(c):
        await c.raw(head)
        await c.open()
        await c.pump(5)


answers_instead("200", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 instead of 101")
answers_instead("401", b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "401 instead of 101")
answers_instead("500", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "500 instead of 101")
answers_instead("http2", b"\0\0\x12\x04\0\0\0\0\0" + bytes(18), "HTTP/2 instead of 101")
answers_instead("banner", b"SSH-2.0-OpenSSH_9.2\r\n", "a banner of SSH")
answers_instead("head-huge", b"HTTP/1.1 101 S\r\n" + b"X-Fill: " + b"x" * MIB + b"\r\n\r\n", "a head of 1 MiB")
answers_instead("head-many", b"HTTP/1.1 101 S\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", "100,000 header lines")
answers_instead("interim", b"HTTP/1.1 100 Continue\r\n\r\n" * 50_000, "interim answers without end")


def shakes_with(name, extra, why):
    @case(f"more-srv-{name}", S, "http", "refused", why)
    async def _(c):
        await c.handshake(extra=extra)
        await c.open()
        await c.pump(5)


shakes_with("extension", "Sec-WebSocket-Extensions: permessage-deflate\r\n", "an extension that nobody offered")
shakes_with("subprotocol", "Sec-WebSocket-Protocol: evil\r\n", "a subprotocol that nobody offered")


def opens_with(name, text, why):
    @case(f"more-srv-open-{name}", S, "ws", "either", why, seconds=45)
    async def _(c):
        await c.text(text)
        await c.identify(2.0)
        await c.probe()


opens_with("junk", "0{", "an open packet that is no JSON")
opens_with("empty", "0{}", "an open packet without members")
opens_with("types", '0{"sid":5,"pingInterval":"x","pingTimeout":[]}', "an open packet of wrong types")
opens_with("zero", '0{"sid":"z","pingInterval":0,"pingTimeout":0}', "a heartbeat of no time at all")
opens_with("endless", '0{"sid":"z","pingInterval":1e300,"pingTimeout":1e300,"maxPayload":1e300}', "numbers beyond all")
opens_with("negative", '0{"sid":"z","pingInterval":-1,"pingTimeout":-1,"maxPayload":-1}', "negative numbers")


# ── we are the broker server: requests ───────────────────────────────────────
@case("more-srv-identify-junk", S, "ws", "alive", "identify events of every wrong type")
async def _(c):
    await c.open()
    for value in (None, 1, "x", [], {}, {"capabilities": 1}, {"capabilities": [1, None, "x" * 100_000]}):
        await c.emit("identify", value)
    await c.emit("identify")
    await c.identify()
    await c.probe()


@case("more-srv-events", S, "identified", "alive", "events that a client never gets, and terminate without meaning")
async def _(c):
    for name in ("chunk", "service", "error", "connect", "notification", "warning", "x" * 50_000):
        for args in ([], [None], ["x", {"$binary": "!!"}], [{"a": {"b": []}}, 1, 2, 3]):
            await c.emit(name, *args, id=7)
    await c.probe()


@case("more-srv-flood", S, "identified", "bounded", "5,000 requests at once", seconds=60)
async def _(c):
    for at in range(5_000):
        await c.request(sid=f"flood-{at}")
    await c.pump(15)
    await c.probe(10)


@case("more-srv-does-not-read", S, "identified", "either", "60,000 requests whose acknowledgements are never read", 60)
async def _(c):
    one = emit("request", {"url": "/nope", "method": "GET", "headers": {}}, id=1)
    many = frame(1, one) * 1_000
    for _ in range(60):
        c.w.write(many)
        try:
            await asyncio.wait_for(c.w.drain(), 20)
        except TimeoutError:
            break
    await asyncio.sleep(5)
    await c.probe(10)


@case("more-srv-variables", S, "identified", "alive", "asks for secrets to be filled in where it can read them")
async def _(c):
    names = ["BROKER_TOKEN", "CR_PASSWORD", "CR_USERNAME", "PATH", "BROKER_SERVER_URL"]
    body = json.dumps(
        {"BROKER_VAR_SUB": ["a", "b.c"], "a": " ".join(f"${{{n}}}" for n in names), "b": {"c": "${PATH}"}}
    )
    headers = {"x-broker-var-sub": "x-a,authorization", "x-a": "${BROKER_TOKEN}", "authorization": "${CR_PASSWORD}"}
    headers["content-type"] = "application/json"
    await c.request("/scan", "POST", headers=headers, body=body, sid="vars-1")
    await c.request("/healthcheck?x=${BROKER_TOKEN}", headers=headers, sid="vars-2")
    await c.pump(2)
    await c.probe()


@case("more-srv-lines", S, "identified", "alive", "line ends in methods, addresses and stream ids")
async def _(c):
    for at, (method, url) in enumerate(
        [
            ("GET\r\nX-Inject: 1", "/healthcheck"),
            ("GET", "/healthcheck HTTP/1.1\r\nX-Inject: 1\r\n\r\n"),
            ("CONNECT", "/"),
        ]
    ):
        await c.request(url, method, sid=f"lines-{at}")
    for sid in ("../../primus/x", "a/b?c=d#e", "a\r\nX-Inject: 1", "\u0000", "é" * 300, "s" * 200_000):
        await c.request(sid=sid)
    await c.probe()


@case("more-srv-large", S, "identified", "alive", "a header of 1 MiB, 20,000 headers, a body of 15 MiB", seconds=60)
async def _(c):
    await c.request(sid="large-1", headers={"x-a": "y" * MIB})
    await c.request(sid="large-2", headers={f"x-{at}": "y" for at in range(20_000)})
    await c.request("/scan", "POST", sid="large-3", headers={"content-type": "text/plain"}, body="b" * 15 * MIB)
    await c.probe(15)


@case("more-srv-one-id", S, "identified", "alive", "one stream id for four requests")
async def _(c):
    for _ in range(4):
        await c.request(sid="same")
    await c.probe()


@case("more-srv-eio-close", S, "identified", "closed", "engine.io's close packet")
async def _(c):
    await c.text("1")
    await c.pump(20)


@case("more-srv-eio-open-again", S, "identified", "either", "a second open packet")
async def _(c):
    await c.open(sid="another")
    await c.probe()


# ── we are the broker server: uploads ────────────────────────────────────────
def takes_uploads(name, why, seconds=45.0):
    def decorate(post):
        async def probing(c):
            # Not what a client sends as one event.
            for at in range(4):
                await c.request("/large", sid=f"up-{at}")
            await c.pump(3)
            await c.probe()

        probing.post = post
        return case(f"more-srv-post-{name}", S, "identified", "alive", why, seconds)(probing)

    return decorate


@takes_uploads("redirect", "an upload is redirected to another host")
async def _(srv, r, w, b):
    there = f"http://{srv.evil_host}:{srv.evil_port}/evil/more-srv-post-redirect"
    await srv.http(w, 307, b"", f"Location: {there}\r\n")


@takes_uploads("500", "an upload is answered with 500")
async def _(srv, r, w, b):
    await srv.http(w, 500, {"error": POISON})


@takes_uploads("reset", "an upload is cut")
async def _(srv, r, w, b):
    w.transport.abort()


@takes_uploads("stall", "an upload is never answered")
async def _(srv, r, w, b):
    await asyncio.sleep(40)


@takes_uploads("junk", "an upload is answered with what is no HTTP")
async def _(srv, r, w, b):
    w.write(b"\x15\x03\x01\0\x02\x02\x46" + b"\0" * 100_000)
    await w.drain()


# ── we are the broker client: the upgrade ────────────────────────────────────
def upgrades_with(name, why, **how):
    @case(f"more-cli-{name}", C, "http", "refused", why)
    async def _(a):
        ws, status, _ = await a.upgrade(**how)
        a.res["upgrade_status"] = status
        return {"end": await a.ending(ws, 12)} if status == 101 else {}


upgrades_with("no-key", "an upgrade without a key", key=None)
upgrades_with("short-key", "a key of three bytes", key="YWJj")
upgrades_with("version-12", "a version of the protocol that nobody speaks", version="12")
upgrades_with("no-version", "no version at all", version=None)
upgrades_with("token-slash", "no token in the address", path="/primus//?EIO=4&transport=websocket")
upgrades_with("sid-unknown", "an upgrade of a session that is not there", query="&sid=nobody")
upgrades_with("two-lengths", "two lengths", headers="Content-Length: 1\r\nContent-Length: 2\r\n")
upgrades_with("both-lengths", "a length and chunks", headers="Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")
upgrades_with("head-huge", "a head of 1 MiB", headers="X-Fill: " + "x" * MIB + "\r\n")
upgrades_with("header-nul", "NUL in a header", headers="X-A: a\0b\r\n")


@case("more-cli-deflate", C, "open", "alive", "offers compression: to be declined or honoured")
async def _(a):
    ws = await a.connect(headers="Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
    task, sid = await a.drive(ws)
    await a.reply(a.token, sid)
    return {"saas": await task}


@case("more-cli-many", C, "open", "bounded", "200 tunnels under one token")
async def _(a):
    open_ones = []
    for _ in range(200):
        try:
            ws, status, _ = await a.upgrade()
        except (Gone, OSError):
            status = 0
        if status == 101:
            open_ones.append(ws)
    await asyncio.sleep(2)
    for ws in open_ones:
        ws.w.close()
    return {"taken": len(open_ones)}


@case("more-cli-silent-connections", C, "http", "bounded", "500 connections that say nothing")
async def _(a):
    held = [await a.tcp() for _ in range(500)]
    await asyncio.sleep(2)
    for _, w in held:
        w.close()


# ── we are the broker client: what it says of itself ─────────────────────────
def says(name, expect, why, *texts, identify=True):
    @case(f"more-cli-{name}", C, "open", expect, why)
    async def _(a):
        ws = await a.connect(identify=identify)
        for text in texts:
            await ws.text(text)
        return {"end": await a.ending(secs=3 if expect != "closed" else 15)}


says(
    "identify-number",
    "either",
    "a token that is a number",
    emit("identify", {"token": 5, "metadata": {}}),
    identify=False,
)
says(
    "identify-nothing", "either", "identify without arguments", emit("identify"), emit("identify", None), identify=False
)
says(
    "identify-list",
    "either",
    "metadata that is a list",
    emit("identify", {"token": "x", "metadata": []}),
    identify=False,
)
says("events-first", "closed", "20,000 events before identify", *[emit("x", 1)] * 20_000, identify=False)
says(
    "primus-junk",
    "alive",
    "pings of every wrong form",
    *[
        f'4"primus::{word}"'
        for word in ("ping::", "ping::abc", "ping::1e999", "ping::-1", "x::1", "pong::9", "id::" + "9" * 5_000)
    ],
)
says("eio-close", "closed", "engine.io's close packet", "1")
says(
    "chunk-unknown",
    "alive",
    "chunks for nobody",
    *[
        emit("chunk", "nobody", data, False)
        for data in ("x" * MIB, None, 5, {"$binary": "!!"}, {"$binary": "eA=="}, [])
    ],
)
says(
    "chunk-types",
    "alive",
    "chunks of wrong types",
    *[emit("chunk", *args) for args in ([], [None], [1, 2, 3, 4], ["a", "b", "c", "d"])],
)
says(
    "requests-junk",
    "alive",
    "requests of wrong types towards the server",
    *[
        emit("request", value, id=3)
        for value in (None, 1, [], {}, {"url": 5}, {"url": "/api", "method": [], "headers": 1})
    ],
)
says(
    "ack-types",
    "alive",
    "acknowledgements of wrong types",
    *[
        "4" + json.dumps({"type": 1, "id": number, "data": data})
        for number in (None, "1", -1, 1e300, 2**70)
        for data in ([], None, 5)
    ],
)


@case("more-cli-identify-version", C, "open", "either", "versions of every wrong form")
async def _(a):
    ws = await a.connect(meta={"version": "9" * 100_000})
    for version in (None, 5, [], "4.x.y", "-1.0.0", "4." + "9" * 30 + ".0", "../../x"):
        await a.identify(ws, a.token, {"version": version})
    return {"end": await a.ending(secs=3)}


@case("more-cli-identify-often", C, "open", "bounded", "identifies 2,000 times, each time with 1,000 filters")
async def _(a):
    filters = {"private": [{"method": "GET", "path": f"/{at}"} for at in range(1_000)]}
    ws = await a.connect(meta={"filters": filters})
    text = emit("identify", {"token": a.token, "metadata": {"clientId": "x", "version": "4.999.0", "filters": filters}})
    for _ in range(200):
        await ws.text(text)
    return {"end": await a.ending(secs=3)}


# ── we are the broker client: answers ────────────────────────────────────────
def replies(name, expect, why, raw=None, **how):
    @case(f"more-cli-{name}", C, "open", expect, why)
    async def _(a):
        ws = await a.connect()
        task, sid = await a.drive(ws, timeout=8)
        return {"post": await a.reply(a.token, sid, raw=raw, **how), "saas": await task}


def headed(head, body=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + body


replies("head-junk", "refused", "a head that is no JSON", headed(b"{{{", POISON.encode()))
replies("head-list", "refused", "a head that is a list", headed([1, 2]))
replies("head-empty", "refused", "no head", headed(b""))
replies("head-short", "refused", "three bytes and the end", b"\x05\0\0")
replies("status-99", "refused", "a status of 99", headed({"status": 99, "headers": {}}))
replies("status-101", "refused", "a status of 101", headed({"status": 101, "headers": {}}))
replies("status-text", "refused", "a status that is a text", headed({"status": "two hundred", "headers": {}}))
replies("status-huge", "refused", "a status of 2^70", headed({"status": 2**70, "headers": {}}))
replies(
    "headers-crlf", "either", "line ends in headers", headers={"x-a": f"1\r\nx-b: {POISON}", f"x\r\nx-c: {POISON}": "1"}
)
replies(
    "headers-framing",
    "either",
    "headers that belong to the connection",
    headers={
        "content-length": "3",
        "transfer-encoding": "chunked",
        "connection": "keep-alive, x",
        "upgrade": "h2c",
    },
    body=b"HTTP/1.1 200 OK\r\n\r\n" * 10,
)
replies(
    "headers-types", "either", "header values of every type", headers={"a": None, "b": [1, {"c": 2}], "d": {}, "e": 5}
)
replies("headers-many", "either", "20,000 headers", headers={f"x-{at}": "y" for at in range(20_000)})


@case("more-cli-answer-twice", C, "open", "refused", "a second answer under an id that is used up")
async def _(a):
    ws = await a.connect()
    task, sid = await a.drive(ws)
    await a.reply(a.token, sid)
    answered = await task
    return {"saas": answered, "post": await a.reply(a.token, sid, body=POISON.encode())}


@case("more-cli-answer-cut", C, "open", "refused", "half an answer, and then the end")
async def _(a):
    ws = await a.connect()
    task, sid = await a.drive(ws, timeout=8)
    whole = headed({"status": 200, "headers": {"content-length": "1000000"}}, b"x" * 1_000_000)
    _r, w = await a.tcp()
    w.write(f"POST /response-data/{a.token}/{sid} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(whole)}\r\n\r\n".encode())
    w.write(whole[:500_000])
    await w.drain()
    w.transport.abort()
    saas = await task
    whole_came = saas["bytes"] > 1_000_000
    return {"saas": saas, "stolen": whole_came, "post": {"status": None, "poison": False}}


@case("more-cli-answer-stolen", C, "open", "refused", "answers a request that another token's client was given")
async def _(a):
    victim = await a.connect(a.other)
    task, sid = await a.drive(victim, token=a.other, timeout=8)
    thief = await a.connect()
    await thief.emit("chunk", sid, "", False, {"status": 200, "headers": {}})
    await thief.emit("chunk", sid, POISON, True)
    post = await a.reply(a.token, sid, body=POISON.encode())
    honest = await a.reply(a.other, sid)
    saas = await task
    return {"post": post, "saas": saas, "stolen": saas["status"] != 200 or honest["status"] != 200}


@case("more-cli-upload-smuggled", C, "open", "refused", "an upload with a length and chunks at once")
async def _(a):
    ws = await a.connect()
    task, sid = await a.drive(ws, timeout=6)
    extra = "Transfer-Encoding: chunked\r\n"
    return {
        "post": await a.reply(a.token, sid, extra=extra, body=b"0\r\n\r\nGET /healthcheck HTTP/1.1\r\n\r\n"),
        "saas": await task,
    }


@case("more-cli-one-byte-pieces", C, "open", "alive", "an honest answer, one byte at a time")
async def _(a):
    ws = await a.connect()
    task, sid = await a.drive(ws)
    whole = headed({"status": 200, "headers": {"content-type": "text/plain"}}, b"ok")
    _r, w = await a.tcp()
    w.write(f"POST /response-data/{a.token}/{sid} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for at in range(len(whole)):
        w.write(b"1\r\n" + whole[at : at + 1] + b"\r\n")
        await w.drain()
        await asyncio.sleep(0.01)
    w.write(b"0\r\n\r\n")
    return {"saas": await task}


# ── we are the broker client: polling ────────────────────────────────────────
POLL = "/?EIO=4&transport=polling"


@case("more-cli-poll-unknown", C, "open", "refused", "polls a session that is not there")
async def _(a):
    return {"post": await a.http("GET", f"/primus/{a.token}{POLL}&sid=nobody")}


@case("more-cli-poll-huge", C, "open", "refused", "announces a poll body of 1 GiB")
async def _(a):
    opened = await a.http("GET", f"/primus/{a.token}{POLL}")
    sid = opened["head"].split('"sid":"')[1].split('"')[0]
    post = await a.http(
        "POST", f"/primus/{a.token}{POLL}&sid={sid}", f"Content-Length: {1 << 30}\r\n", b"4x", chunked=True
    )
    return {"post": post}


@case("more-cli-poll-other-token", C, "open", "refused", "polls its session under another token")
async def _(a):
    opened = await a.http("GET", f"/primus/{a.token}{POLL}")
    sid = opened["head"].split('"sid":"')[1].split('"')[0]
    return {"post": await a.http("GET", f"/primus/{a.other}{POLL}&sid={sid}", timeout=5)}


@case("more-cli-poll-junk", C, "open", "either", "poll bodies of junk")
async def _(a):
    for body in (b"", b"\x1e" * 100_000, b"4" + b"[" * 100_000, b"b!!", b"9", b"\xff\xfe", b"4null\x1e" * 10_000):
        opened = await a.http("GET", f"/primus/{a.token}{POLL}")
        sid = opened["head"].split('"sid":"')[1].split('"')[0]
        await a.http("POST", f"/primus/{a.token}{POLL}&sid={sid}", "Content-Type: text/plain\r\n", body, timeout=5)


# ── we are anybody ───────────────────────────────────────────────────────────
@case("more-cli-junk-bytes", C, "http", "closed", "bytes that are no HTTP")
async def _(a):
    r, w = await a.tcp()
    w.write(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(256)) * 16)
    try:
        return {"answer": (await asyncio.wait_for(r.read(1000), 15))[:60].decode("latin-1") or "closed"}
    except ConnectionError:
        return {"answer": "reset"}


@case("more-cli-pipeline", C, "http", "bounded", "20,000 requests at once on one connection, answers not read")
async def _(a):
    _r, w = await a.tcp()
    w.write(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000)
    await asyncio.sleep(5)
    w.transport.abort()


@case("more-cli-callers-leave", C, "open", "alive", "100 callers whose request the client never answers, and who leave")
async def _(a):
    ws = await a.connect()
    for _ in range(100):
        _r, w = await a.tcp()
        w.write(f"GET /broker/{a.token}/healthcheck HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await w.drain()
        await asyncio.sleep(0.005)
        w.transport.abort()
    task, _ = await a.drive(ws)
    await ws.pump(2)
    for event in ws.ev("request"):
        await a.reply(a.token, event["data"][1]["streamingID"])
    return {"saas": await task}
