"""The broker: the allow-list, what it lets through and how, from both ends of the tunnel (broker-protocol.md §2–3)."""

from towline.core.broker._commands import Reload, Stop
from towline.core.broker._tally import Distribution, Figures, RequestFigures
from towline.core.broker._upload import UploadDecoder, UploadHead, encode_upload_head
from towline.core.broker.client._client import BrokerClient
from towline.core.broker.client._client_config import BrokerClientConfig, ConnectionConfig
from towline.core.broker.client._dialling import TunnelsEnded
from towline.core.broker.client._filters_page import RulesRead, RulesWanted
from towline.core.broker.client._substitution import substitutable, substitute_body, substitute_headers
from towline.core.broker.filter._filter import Allowed, Denied, Filter, Upstream, Verdict, target_fault
from towline.core.broker.filter._rules import DEFAULT_AGENT_RULES, AcceptRules, Auth, Rule, default_server_rules
from towline.core.broker.nodes._cluster import ClusterConfig
from towline.core.broker.nodes._nodes import Found, Leased, Locate, Located, NodeEvent, TokenHeld, TokenLeft
from towline.core.broker.server._authority import Authorize
from towline.core.broker.server._platform import CallbackArrived
from towline.core.broker.server._server import BrokerServer
from towline.core.broker.server._server_config import BrokerServerConfig

__all__ = [
    "DEFAULT_AGENT_RULES",
    "AcceptRules",
    "Allowed",
    "Auth",
    "Authorize",
    "BrokerClient",
    "BrokerClientConfig",
    "BrokerServer",
    "BrokerServerConfig",
    "CallbackArrived",
    "ClusterConfig",
    "ConnectionConfig",
    "Denied",
    "Distribution",
    "Figures",
    "Filter",
    "Found",
    "Leased",
    "Locate",
    "Located",
    "NodeEvent",
    "Reload",
    "RequestFigures",
    "Rule",
    "RulesRead",
    "RulesWanted",
    "Stop",
    "TokenHeld",
    "TokenLeft",
    "TunnelsEnded",
    "UploadDecoder",
    "UploadHead",
    "Upstream",
    "Verdict",
    "default_server_rules",
    "encode_upload_head",
    "substitutable",
    "substitute_body",
    "substitute_headers",
    "target_fault",
]
