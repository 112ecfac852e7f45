"""Which of MLflow's routes the door opens: those that plain tracking, the registry and its pages need.

A list of what is let through, not of what is not: MLflow's next release may bring routes that
nobody here has looked at (jobs, webhooks, gateways, assistants and users stay closed).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from citybrain.core.errors import InvalidInput, NotFound

Kind = Literal["page", "read", "write", "artifact"]
MAX_PATH = 1024
ODD = re.compile(r"[\x00-\x1f\x7f%\\#?;]|//|(^|/)\.{1,2}(/|$)")
"""What a decoded path must not hold: another server could read something else in it."""
API = r"/(?:ajax-)?api/[23]\.0/mlflow"
ARTIFACTS = r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts"
ONE = r"logged-models/m-[0-9a-f]{1,64}"
OPEN: dict[Kind, str] = {
    "page": r"""
        GET /
        GET /health
        GET /version
        GET /static-files/.+
    """,
    "artifact": rf"""
        GET /get-artifact
        GET /model-versions/get-artifact
        GET {ARTIFACTS}(/.+)?
        PUT {ARTIFACTS}/[0-9]+/.+
    """,
    "read": rf"""
        POST /graphql
        GET {API}/artifacts/list
        GET {API}/experiments/(get|get-by-name|search)
        POST {API}/experiments/(search|search-datasets)
        GET {API}/metrics/(get-history|get-history-bulk|get-history-bulk-interval)
        GET {API}/model-versions/(get|get-download-uri|search)
        GET {API}/registered-models/(alias|get|get-latest-versions|search)
        POST {API}/registered-models/get-latest-versions
        GET {API}/runs/get
        POST {API}/runs/search
        GET {API}/{ONE}(/artifacts/directories)?
        POST {API}/logged-models/search
        GET {API}/server-info
        GET {API}/users/current(/permissions)?
    """,
    "write": rf"""
        POST {API}/experiments/(create|delete|restore|update)
        POST {API}/experiments/(set-experiment-tag|delete-experiment-tag)
        POST {API}/runs/(create|delete|restore|update|set-tag|delete-tag)
        POST {API}/runs/(log-batch|log-inputs|log-metric|log-model|log-parameter|outputs)
        POST {API}/logged-models
        PATCH {API}/{ONE}(/tags)?
        POST {API}/{ONE}/params
        DELETE {API}/{ONE}
        POST {API}/registered-models/(create|set-tag|alias)
        PATCH {API}/registered-models/update
        DELETE {API}/registered-models/(delete|delete-tag|alias)
        POST {API}/model-versions/(create|set-tag)
        PATCH {API}/model-versions/update
        DELETE {API}/model-versions/(delete|delete-tag)
    """,
}
_OPEN = {
    kind: re.compile("|".join(line.strip() for line in table.strip().splitlines()))
    for kind, table in OPEN.items()
}


class Route(NamedTuple):
    """One of MLflow's routes: what kind it is, and the name by which rules know it."""

    kind: Kind
    name: str


def check_path(path: str) -> str:
    """The decoded path, or InvalidInput for one that could be read in two ways."""
    if len(path) > MAX_PATH or ODD.search(path):
        raise InvalidInput(
            f"{path[:80]!r} is not a path that is taken here.",
            hint="Names of artifacts hold no %, ;, \\, #, ?, no empty parts and no '..'.",
        )
    return path


def find_route(method: str, path: str) -> Route:
    """The open route of a request, or NotFound."""
    asked = f"{'GET' if method == 'HEAD' else method} {path}"
    for kind in get_args(Kind):
        if _OPEN[kind].fullmatch(asked):
            return Route(kind, re.sub(rf" {API}/", " ", asked))
    raise NotFound(
        f"{method} {path[:100]} is not offered here.",
        hint="Experiments, runs, logged models, artifacts, models, versions and aliases are.",
    )
