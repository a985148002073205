"""A request to the agent: the first line is method and target, the rest is the body."""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from fuzz.harness import refused_or_taken
from towline.core.agent import (
    WORKING,
    Job,
    JobRegistry,
    find_route,
    image_reference,
    job_query,
    list_query,
    new_job,
    parse_job,
    repository_name,
    state_query,
)


def run(data: bytes) -> None:
    line, _, body = data.partition(b"\n")
    method, _, target = line.decode("latin-1").partition(" ")
    path, _, text = target.partition("?")
    query = parse_qsl(text, keep_blank_values=True, max_num_fields=None)
    route = refused_or_taken(lambda: find_route(method, path))
    if route is not None:
        refused_or_taken(lambda: repository_name(route.rest, encoded=True))
        refused_or_taken(lambda: image_reference(route.rest))
    refused_or_taken(lambda: list_query(query))
    refused_or_taken(lambda: state_query(query))
    refused_or_taken(lambda: job_query(query, WORKING))
    asked = refused_or_taken(lambda: parse_job("scan", body))
    if asked is not None:
        job = new_job("j", asked, JobRegistry("oci", "host", "https", "anonymous"), 1.0)
        assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
