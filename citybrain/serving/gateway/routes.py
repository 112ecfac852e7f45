"""Which requests the gateway answers itself, and the action of the platform's policy that each is.

What has no row here is no route of the data plane. `/v1/features`, `/v1/jobs` and `/v1/requests` go to
the control process, which has its own.
"""

from __future__ import annotations

CALL = "call"
"""About one algorithm that the caller may call, or all of those."""
SERVER = "server.read"
"""About the server alone: no key."""
ONE = "/v2/models/{name}"
VERSION = ONE + "/versions/{version}"
HTTP = (
    ("GET", "/v2", SERVER),
    ("GET", "/v2/health/live", SERVER),
    ("GET", "/v2/health/ready", SERVER),
    ("POST", "/v2/repository/index", CALL),
    *(("GET", model + end, CALL) for model in (ONE, VERSION) for end in ("", "/ready")),
    *(("POST", model + "/infer", CALL) for model in (ONE, VERSION)),
    ("POST", "/v1/algorithms/{name}/predict", CALL),
)
GRPC = {
    "ServerLive": SERVER,
    "ServerReady": SERVER,
    "ServerMetadata": SERVER,
    "ModelReady": CALL,
    "ModelMetadata": CALL,
    "RepositoryIndex": CALL,
    "ModelInfer": CALL,
    "ModelStreamInfer": CALL,
}
_BY_LENGTH: dict[tuple[str, int], list[tuple[list[str], str]]] = {}
for _method, _path, _action in HTTP:
    _parts = _path.strip("/").split("/")
    _BY_LENGTH.setdefault((_method, len(_parts)), []).append((_parts, _action))


def action_of(method: str, parts: list[str]) -> str:
    """The action of a request; nothing: it is not a route."""
    for template, action in _BY_LENGTH.get((method, len(parts)), ()):
        if all(
            named[0] == "{" or named == part for named, part in zip(template, parts, strict=True)
        ):
            return action
    return ""
