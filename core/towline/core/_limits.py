"""Every bound there is, named, with its reason (security.md §3). Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Final

from towline.core._contract import Record

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class Limits(Record, frozen=True):
    """The defaults of security.md §3. A machine takes a Limits as an argument; a test passes a smaller one."""

    # HTTP heads: h11 judges the whole head against one number.
    http_head: int = 32 * KIB
    http_headers: int = 100
    # One header of a relayed request; nginx and Apache take as much by default.
    http_header: int = 8 * KIB
    http_line: int = 8 * KIB
    # An extension has no use that we know; 256 bytes is security.md's word. Trailers are read and dropped.
    http_chunk_line: int = 256
    http_trailers: int = 8 * KIB
    http_interim: int = 8
    http_redirects: int = 5
    # A request body that is read whole: the stock pair's own wall (broker-protocol.md §2.1).
    http_request_body: int = 10 * MIB
    # Bytes of one piece on the way: more would leave h11's fast range (style.md §9).
    http_piece: int = 64 * KIB
    # Unread rest of a body that is drained to keep a connection; above it the connection is dropped.
    http_drain: int = 64 * KIB
    # Bytes read on after a refusal, within `time_linger`: a sender whose rest is reset never sees why. Six times the
    # largest body that is taken.
    http_linger: int = 64 * MIB
    # Bytes of the next requests held while one is answered; a peer that sends more is closed after the answer.
    http_pipeline: int = 128 * KIB

    # Registry documents: what the distribution spec tells clients to support.
    registry_document: int = 4 * MIB
    registry_token_answer: int = 128 * KIB
    registry_token: int = 16 * KIB
    # One for each repository that is read: the oldest are forgotten, and asked for again when needed.
    registry_tokens: int = 1_024
    registry_error_body: int = 64 * KIB
    challenge_line: int = 16 * KIB
    challenge_count: int = 16
    challenge_params: int = 32

    json_depth: int = 64
    json_digits: int = 64
    json_keys: int = 10_000
    # Values in one tunnel message: what a long list of accept rules needs many times over.
    json_values: int = 250_000

    index_depth: int = 3
    index_entries: int = 1_000
    image_layers: int = 1_024
    image_layer: int = 10 * GIB
    image_total: int = 30 * GIB
    # SNYK_MAX_IMAGE_SIZE_IN_BYTES: the sum of the compressed layer sizes that a scan accepts.
    image_scan: int = 2 * GIB

    list_page: int = 8 * MIB
    list_pages: int = 1_000
    list_items: int = 100_000

    # A ratio says nothing about a small layer: zeros compress a thousandfold. Counted past the first 64 MiB.
    unpack_ratio: int = 200
    unpack_ratio_from: int = 64 * MIB
    unpack_layer: int = 20 * GIB
    unpack_image: int = 60 * GIB
    unpack_window: int = 8 * MIB
    unpack_members: int = 2_000_000
    # Output of one inflate step, so that a bomb cannot be born in one call.
    unpack_piece: int = 256 * KIB

    tar_entries: int = 1_000_000
    tar_name: int = 4 * KIB
    tar_depth: int = 128
    # All names of one layer together: a million of an ordinary length.
    tar_names: int = 128 * MIB
    tar_pax: int = 1 * MIB
    tar_pax_records: int = 1_000

    scan_database: int = 64 * MIB
    scan_file: int = 4 * MIB
    scan_kept: int = 256 * MIB
    # Packages of one image and relations between them: fifty times a large distribution's install.
    scan_packages: int = 100_000
    scan_relations: int = 250_000
    scan_runtimes: int = 100
    symlink_hops: int = 40
    # Second passes over layers, for files that only a link makes interesting.
    scan_passes: int = 3
    # Statements about how an image was built, and the size of one (scan.md §1.5).
    provenance_entries: int = 10
    provenance_document: int = 2 * MIB

    time_connect: float = 10.0
    time_head: float = 30.0
    time_silence: float = 30.0
    time_min_rate: int = 1 * KIB
    time_min_rate_window: float = 30.0
    # How long a server keeps a quiet link: longer than the 600 s after which load balancers give one up.
    time_keep_alive: float = 650.0
    # Reading on after a refusal, so that the peer sees the answer and not a reset.
    time_linger: float = 5.0
    time_operation: float = 60.0
    time_pull: float = 30 * 60.0

    retries: int = 4
    retry_base: float = 0.5
    retry_cap: float = 8.0
    retry_after: float = 30.0
    resumes: int = 5
    resume_progress: int = 1 * MIB

    # 21 MiB is engine.io's maxPayload at the stock server; 22 MiB is what security.md allows a frame to be.
    ws_message: int = 22 * MIB
    # What the setting may make of it: a callback of the least size that we post has to fit, its base64 and all.
    ws_message_least: int = 1 * MIB
    ws_message_most: int = 64 * MIB
    ws_fragments: int = 1_024
    ws_controls_per_second: int = 100
    tunnel_payload: int = 22_020_096
    tunnel_answer: int = 20_971_520
    tunnel_upgrade: float = 10.0
    tunnel_identify: float = 10.0
    tunnel_sockets_per_token: int = 16
    tunnel_sockets: int = 20_000
    tunnel_in_flight: int = 64
    tunnel_waiting: int = 256
    tunnel_buffer: int = 8 * MIB
    # engine.io packets in one poll body.
    tunnel_packets: int = 1_024
    stream_buffer: int = 256 * KIB
    upload_head: int = 64 * KIB
    # A relayed request's path and query, and the segments of its path (security.md §5.1).
    filter_target: int = 8 * KIB
    filter_segments: int = 64
    # A small answer goes as one event (design.md §5).
    answer_inline: int = 16 * KIB

    # Several server nodes (security.md §8): others that a node keeps count of, questions to the directory that wait
    # for an answer, and how long one may; what it answered is believed for a second, for so many tokens.
    nodes: int = 1_024
    node_questions: int = 1_024
    node_answer: float = 2.0
    node_memory: float = 1.0
    node_memories: int = 10_000
    # How far apart the clocks of two nodes may be: both follow the directory's.
    node_skew: float = 30.0
    # Nodes are near each other; one that cannot be reached is left alone for a while.
    node_connect: float = 2.0
    node_rest: float = 5.0
    # An upload's first bytes while the directory is asked whose it is, and one node's page of a token's clients.
    node_held: int = 1 * MIB
    node_page: int = 4 * MIB
    node_page_time: float = 5.0

    links_per_origin: int = 8
    links_idle: float = 60.0
    layers_at_once: int = 4

    outbox_bytes: int = 10 * GIB
    outbox_entries: int = 100_000
    callback_bytes: int = 8 * MIB
    callback_bytes_least: int = 256 * KIB
    jobs_queued: int = 1_000
    job_attempts: int = 3
    drain: float = 25.0
    drain_most: float = 600.0

    log_record: int = 16 * KIB
    foreign_text: int = 1 * KIB


LIMITS: Final = Limits()
