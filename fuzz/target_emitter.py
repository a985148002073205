"""A tunnel's message from its bytes to its meaning: control, emitter, and the broker's own events."""

from __future__ import annotations

from functools import partial

from fuzz.harness import refused_or_taken
from towline.core.tunnel import (
    read_cancel,
    read_chunk,
    read_identify,
    read_request,
    read_response,
    write_cancel,
    write_chunk,
    write_request,
)
from towline.core.tunnel._ejson import decode
from towline.core.tunnel._emitter import (
    RESERVED_AT_CLIENT,
    RESERVED_AT_SERVER,
    Ack,
    Event,
    read_packet,
    write_ack,
    write_event,
)
from towline.core.tunnel._primus import read_control


def run(data: bytes) -> None:
    value = refused_or_taken(lambda: decode(data))
    if read_control(value) is not None:
        assert isinstance(value, str)
    for reserved in (RESERVED_AT_CLIENT, RESERVED_AT_SERVER):
        packet = read_packet(value, reserved)
        if isinstance(packet, Event):
            assert packet.name not in reserved
            refused_or_taken(partial(write_event, packet.name, packet.args, packet.id))
        elif isinstance(packet, Ack):
            assert packet.id > 0
            refused_or_taken(partial(write_ack, packet.id, packet.args))
        if packet is None:
            continue
        refused_or_taken(partial(read_identify, packet.args))
        refused_or_taken(partial(read_response, packet.args))
        request = refused_or_taken(partial(read_request, packet.args))
        if request is not None and request.request_id:
            assert read_request([write_request(request)]) == request
        stream, number = read_cancel(packet.args)
        assert read_cancel(write_cancel(stream, number)) == ((stream, None) if stream else ("", number))
        chunk = refused_or_taken(partial(read_chunk, packet.args))
        if chunk is not None:
            assert read_chunk(write_chunk(chunk)) == chunk
