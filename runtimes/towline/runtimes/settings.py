"""Every setting there is, as rows: its key in the file, the variables that set it, its form and its default.

The stock names (`BROKER_TOKEN`, `CR_AGENT_URL`, `SNYK_PORT`, ...) keep their meaning, so that each program starts
from a deployment's existing environment alone (broker-protocol.md §4.1, agent.md §2.3 and §8.2). Ours begin with
`TOWLINE_`. Any variable of a row may also be given as `NAME_FILE`, which names a file that holds the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from towline.core import LIMITS, Record
from towline.runtimes.values import (
    callback_size,
    choice,
    drain_time,
    message_size,
    milliseconds,
    number,
    port,
    positive,
    seconds,
    secret,
    secrets,
    switch,
    text,
    version,
    words,
)


class Setting(Record, frozen=True):
    """One row. `read` turns a text from the environment, or a value from the file, into the setting's value."""

    key: str
    read: Callable[[Any], Any]
    default: Any
    variables: tuple[str, ...]
    meaning: str


_S = Setting
SETTINGS: Final[tuple[Setting, ...]] = (
    _S(
        "log.level",
        choice("debug", "info", "warn", "warning", "error"),
        "info",
        ("LOG_LEVEL",),
        "least level that is logged",
    ),
    _S(
        "log.format",
        choice("human", "json"),
        None,
        ("TOWLINE_LOG_FORMAT", "LOG_FORMAT"),
        "human on a terminal, else json",
    ),
    _S("tls.ca_files", words, (), ("TOWLINE_CA_FILES", "NODE_EXTRA_CA_CERTS", "CA_CERT"), "PEM files with extra roots"),
    _S(
        "tls.insecure_hosts", words, (), ("TOWLINE_TLS_INSECURE_HOSTS",), "registries whose certificate is not verified"
    ),
    _S("tls.verify", switch, True, ("NODE_TLS_REJECT_UNAUTHORIZED",), "false turns verification of registries off"),
    _S("drain.time", drain_time, LIMITS.drain, ("TOWLINE_DRAIN_TIME",), "how long a stop waits for what is under way"),
    _S("net.allowed_networks", words, (), ("TOWLINE_ALLOWED_NETWORKS",), "networks an untrusted target may be in"),
    _S("server.bind", text, "0.0.0.0", ("TOWLINE_SERVER_BIND",), "address the server listens on"),
    _S("server.port", port, 7341, ("TOWLINE_SERVER_PORT", "PORT"), "port the server listens on"),
    _S("server.accept", text, None, ("ACCEPT",), "file with the server's accept rules"),
    _S("server.tokens", secrets, (), ("TOWLINE_SERVER_TOKENS",), "broker tokens that are taken; any when empty"),
    _S(
        "server.mandatory_auth",
        switch,
        False,
        ("BROKER_SERVER_MANDATORY_AUTH_ENABLED",),
        "clients have to prove who they are, to the gateway",
    ),
    _S("server.gateway_url", text, None, ("GATEWAY_HOSTNAME",), "gateway that judges the credentials of clients"),
    _S("server.dispatcher_url", text, None, ("DISPATCHER_URL",), "dispatcher that is told of this server's clients"),
    _S("server.host_name", text, None, ("HOSTNAME",), "this server as the dispatcher reaches it"),
    _S("server.ping_interval", milliseconds, 25.0, ("SOCKET_PING_INTERVAL",), "seconds between two pings of a client"),
    _S("server.ping_timeout", milliseconds, 20.0, ("SOCKET_PING_TIMEOUT",), "seconds without an answer to one"),
    _S(
        "server.message_bytes",
        message_size,
        LIMITS.tunnel_payload,
        ("SOCKET_MAX_RESPONSE_LENGTH",),
        "largest message that a client may send up its tunnel",
    ),
    _S(
        "server.minimal_version",
        version,
        "4.100.0",
        ("MINIMAL_SUPPORTED_BROKER_VERSION",),
        "clients below this version are sent away",
    ),
    _S(
        "server.recommended_version",
        version,
        "4.182.0",
        ("MINIMAL_RECOMMENDED_BROKER_VERSION",),
        "clients below this version are warned",
    ),
    _S("server.metrics_port", port, None, ("TOWLINE_SERVER_METRICS_PORT",), "port of the metrics; none when empty"),
    _S("server.metrics_bind", text, "127.0.0.1", ("TOWLINE_SERVER_METRICS_BIND",), "address of the metrics' port"),
    _S(
        "server.metrics_public",
        switch,
        False,
        ("TOWLINE_SERVER_METRICS_PUBLIC",),
        "show /metrics on the server's own port too",
    ),
    _S("server.https_cert", text, None, ("HTTPS_CERT",), "PEM file with the certificate chain"),
    _S("server.https_key", text, None, ("HTTPS_KEY",), "PEM file with the private key"),
    _S("server.redis_url", secret, None, ("TOWLINE_REDIS_URL",), "Redis of several nodes; one alone when empty"),
    _S("server.cluster_secret", secret, None, ("TOWLINE_CLUSTER_SECRET",), "what all nodes know and nobody else"),
    _S("server.node_url", text, None, ("TOWLINE_NODE_URL",), "this node as the others reach it"),
    _S("server.node_id", text, None, ("TOWLINE_NODE_ID",), "this node's name in logs; the host's when empty"),
    _S("server.node_lease", seconds, 30.0, ("TOWLINE_NODE_LEASE",), "time after which a silent node is no more"),
    _S("server.results", text, "towline-results.sqlite", ("TOWLINE_RESULTS",), "file of the results box"),
    _S(
        "server.results_token",
        secret,
        None,
        ("TOWLINE_RESULTS_TOKEN",),
        "bearer token that opens the results box to others",
    ),
    _S("client.bind", text, "0.0.0.0", ("TOWLINE_CLIENT_BIND",), "address the client listens on"),
    _S("client.port", port, 7341, ("TOWLINE_CLIENT_PORT", "PORT"), "port the client listens on"),
    _S("client.token", secret, None, ("BROKER_TOKEN",), "broker token of this connection"),
    _S("client.server_url", text, None, ("BROKER_SERVER_URL",), "where the broker server is"),
    _S("client.client_url", text, None, ("BROKER_CLIENT_URL",), "this client as the agent sees it"),
    _S("client.agent_url", text, None, ("CR_AGENT_URL",), "the agent as this client sees it"),
    _S("client.metrics_port", port, None, ("TOWLINE_CLIENT_METRICS_PORT",), "port of the metrics; none when empty"),
    _S("client.metrics_bind", text, "127.0.0.1", ("TOWLINE_CLIENT_METRICS_BIND",), "address of the metrics' port"),
    _S("client.accept", text, None, ("ACCEPT",), "file with the client's accept rules"),
    _S("client.substitute", words, (), ("TOWLINE_SUBSTITUTE",), "further names the far side may have filled in"),
    _S(
        "client.polling_first",
        switch,
        False,
        ("TOWLINE_POLLING_FIRST",),
        "begin sessions with polling, as the stock client",
    ),
    _S("client.one_event_answers", switch, True, ("TOWLINE_ONE_EVENT_ANSWERS",), "send a small answer as one event"),
    _S("client.ping_interval", milliseconds, 25.0, ("SOCKET_PING_INTERVAL",), "seconds between two pings"),
    _S(
        "client.pong_timeout", milliseconds, 10.0, ("SOCKET_PONG_TIMEOUT",), "seconds without a pong until reconnecting"
    ),
    _S("client.connect_timeout", milliseconds, 10.0, ("SOCKET_CONNECT_TIMEOUT",), "seconds for one connection attempt"),
    _S(
        "client.healthcheck_path", text, "/healthcheck", ("BROKER_HEALTHCHECK_PATH",), "path of the client's own health"
    ),
    _S(
        "client.systemcheck_path",
        text,
        "/systemcheck",
        ("BROKER_SYSTEMCHECK_PATH",),
        "path of the client's credential check",
    ),
    _S("client.validation_url", text, None, ("BROKER_CLIENT_VALIDATION_URL",), "what the system check asks"),
    _S("client.validation_method", text, "GET", ("BROKER_CLIENT_VALIDATION_METHOD",), "method of that check"),
    _S(
        "client.validation_authorization",
        secret,
        None,
        ("BROKER_CLIENT_VALIDATION_AUTHORIZATION_HEADER",),
        "its Authorization",
    ),
    _S("client.validation_basic", secret, None, ("BROKER_CLIENT_VALIDATION_BASIC_AUTH",), "its user:password"),
    _S("client.validation_timeout", milliseconds, 5.0, ("BROKER_CLIENT_VALIDATION_TIMEOUT_MS",), "its time limit"),
    _S(
        "client.validation_authorizations",
        secrets,
        (),
        ("BROKER_CLIENT_VALIDATION_AUTHORIZATION_HEADER_POOL",),
        "several of them, each checked",
    ),
    _S("client.validation_basics", secrets, (), ("BROKER_CLIENT_VALIDATION_BASIC_AUTH_POOL",), "several user:password"),
    _S(
        "client.preflight",
        switch,
        True,
        ("PREFLIGHT_CHECKS_ENABLED",),
        "look at server, token and addresses at the start",
    ),
    _S("client.server_urls", words, (), ("TOWLINE_SERVER_URLS",), "several servers; each tunnel goes to another"),
    _S("client.high_availability", switch, False, ("BROKER_HA_MODE_ENABLED",), "ask the dispatcher for a server"),
    _S("client.api_url", text, None, ("API_BASE_URL",), "the vendor's API"),
    _S("client.dispatcher_url", text, None, ("BROKER_DISPATCHER_BASE_URL",), "the dispatcher, where not the API"),
    _S("client.dispatcher_prefix", text, None, ("DISPATCHER_URL_PREFIX",), "path of the dispatcher's calls"),
    _S(
        "client.location",
        text,
        "snyk-broker-client",
        ("BROKER_CLIENT_LOCATION",),
        "where this client is, for the dispatcher",
    ),
    _S(
        "client.authenticate",
        switch,
        False,
        ("TOWLINE_AUTHENTICATE", "UNIVERSAL_BROKER_GA"),
        "show the server a bearer token, got from the API",
    ),
    _S("client.oauth_id", text, None, ("CLIENT_ID",), "id for getting that token"),
    _S("client.oauth_secret", secret, None, ("CLIENT_SECRET",), "secret for getting it"),
    _S("client.deployment_id", text, None, ("DEPLOYMENT_ID",), "id of this deployment, told to the server"),
    _S("client.retries", number, 3, ("MAX_RETRY",), "further tries while an upstream cannot be connected to"),
    _S(
        "client.insecure_downstream",
        switch,
        False,
        ("INSECURE_DOWNSTREAM",),
        "reach upstreams in clear text though their address says https",
    ),
    _S(
        "client.rewritten_url",
        text,
        None,
        ("RES_BODY_URL_SUB",),
        "an upstream's address that is replaced in JSON answers",
    ),
    _S(
        "client.no_body_substitution",
        switch,
        False,
        ("DISABLE_BODY_VARS_SUBSTITUTION",),
        "fill nothing in in bodies",
    ),
    _S(
        "client.no_header_substitution",
        switch,
        False,
        ("DISABLE_HEADER_VARS_SUBSTITUTION",),
        "fill nothing in in headers",
    ),
    _S(
        "client.post_timeout",
        milliseconds,
        20 * 60.0,
        ("BROKER_CLIENT_POST_TIMEOUT",),
        "silence after which the upload of an answer is given up",
    ),
    _S(
        "client.answer_bytes",
        number,
        LIMITS.tunnel_answer,
        ("SOCKET_MAX_RESPONSE_LENGTH",),
        "largest answer that is acknowledged rather than uploaded",
    ),
    _S(
        "client.tls_terminated",
        switch,
        False,
        ("BROKER_CLIENT_URL_TLS_TERMINATED",),
        "another program ends the TLS of the client's own URL",
    ),
    _S("client.https_cert", text, None, ("HTTPS_CERT",), "PEM file with the certificate chain"),
    _S("client.https_key", text, None, ("HTTPS_KEY",), "PEM file with the private key"),
    _S(
        "client.universal",
        switch,
        False,
        ("UNIVERSAL_BROKER_ENABLED",),
        "read the connections from the stock universal client's file",
    ),
    _S("client.skip_remote_config", switch, False, ("SKIP_REMOTE_CONFIG",), "needed beside it: nothing is fetched"),
    _S(
        "client.universal_config",
        text,
        "config.default.json",
        ("TOWLINE_UNIVERSAL_CONFIG",),
        "where that file is",
    ),
    _S("agent.bind", text, "0.0.0.0", ("TOWLINE_BIND",), "address the agent listens on"),
    _S("agent.port", port, 17500, ("SNYK_PORT", "TOWLINE_PORT"), "port the agent listens on"),
    _S("agent.workdir", text, "towline-agent", ("TOWLINE_WORKDIR",), "folder of the agent's jobs and outbox"),
    _S(
        "agent.max_image_bytes",
        number,
        LIMITS.image_scan,
        ("SNYK_MAX_IMAGE_SIZE_IN_BYTES",),
        "largest image, compressed",
    ),
    _S("agent.active_operations", number, 1, ("MAX_ACTIVE_OPERATIONS",), "scans at a time"),
    _S("agent.max_queue", number, LIMITS.jobs_queued, ("TOWLINE_MAX_QUEUE",), "jobs that may wait"),
    _S("agent.disable_list", switch, False, ("SNYK_DISABLE_LIST_REPOS",), "never ask for the catalogue"),
    _S("agent.callback_urls", words, (), ("TOWLINE_CALLBACK_URLS", "BROKER_CLIENT_URL"), "where results may be posted"),
    _S(
        "agent.callback_max_bytes",
        callback_size,
        LIMITS.callback_bytes,
        ("TOWLINE_CALLBACK_MAX_BYTES",),
        "largest callback body",
    ),
    _S("agent.delivery_ttl", seconds, 7 * 86400.0, ("TOWLINE_DELIVERY_TTL",), "how long a result is offered"),
    _S("agent.allow_http", words, (), ("TOWLINE_ALLOW_HTTP",), "registries that may be reached in clear text"),
    _S("agent.registries", text, None, ("TOWLINE_REGISTRIES",), "file with the agent's own registries"),
    _S("agent.shared_secret", secret, None, ("TOWLINE_SHARED_SECRET",), "what callers prove that they know"),
    _S(
        "agent.registry_concurrency",
        positive,
        LIMITS.links_per_origin,
        ("TOWLINE_REGISTRY_CONCURRENCY",),
        "links to one registry at a time",
    ),
    _S("agent.registry_rate", positive, 50, ("TOWLINE_REGISTRY_RPS",), "requests a second to one registry, at most"),
    _S("agent.https_cert", text, None, ("HTTPS_CERT",), "PEM file with the certificate chain"),
    _S("agent.https_key", text, None, ("HTTPS_KEY",), "PEM file with the private key"),
    _S("registry.type", text, None, ("CR_TYPE",), "type of the registry"),
    _S("registry.base", text, None, ("CR_BASE",), "host, port and path of the registry"),
    _S("registry.username", text, None, ("CR_USERNAME",), "user"),
    _S("registry.password", secret, None, ("CR_PASSWORD",), "its password or token"),
    _S("registry.token", secret, None, ("CR_TOKEN",), "token of a type that has only one"),
    _S("registry.api", text, None, ("TOWLINE_REGISTRY_API",), "where the vendor's API is, if not at the usual place"),
    _S(
        "registry.namespaces",
        words,
        (),
        ("TOWLINE_REGISTRY_NAMESPACES",),
        "owners, groups, projects or registries whose repositories are listed",
    ),
    _S("registry.role_arn", text, None, ("CR_ROLE_ARN",), "role to assume"),
    _S("registry.region", text, None, ("CR_REGION",), "region of the role"),
    _S("registry.external_id", secret, None, ("CR_EXTERNAL_ID",), "external id of the role"),
    _S("registry.credentials", secret, None, ("CR_CREDENTIALS",), "the finished credential string"),
    _S(
        "registry.credential_program",
        words,
        (),
        ("TOWLINE_CREDENTIAL_PROGRAM",),
        "program, and its arguments, that prints the login as JSON",
    ),
    _S("registry.realm_hosts", words, (), ("TOWLINE_REALM_HOSTS",), "further hosts that may be asked for a token"),
)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what these rows say is secret: another program gets no secret of this one."""
    ours = {name for row in SETTINGS if row.read in (secret, secrets) for name in row.variables}
    return {name: value for name, value in environment.items() if name not in ours}
