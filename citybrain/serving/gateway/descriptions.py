"""What the Open Inference Protocol tells about the server and its models, for both of its doors."""

from __future__ import annotations

from citybrain import __version__
from citybrain.core.errors import CityBrainError
from citybrain.core.schemas import Key
from citybrain.core.tensors import Signature
from citybrain.serving.gateway.directory import Directory

EXTENSIONS = ["binary_tensor_data", "model_repository"]


def server_metadata() -> dict[str, object]:
    """The body of `GET /v2`."""
    return {"name": "citybrain", "version": __version__, "extensions": EXTENSIONS}


def describe(signature: Signature) -> dict[str, list[dict[str, object]]]:
    """A signature as the protocol writes it."""
    return {
        side: [{"name": s.name, "datatype": s.dtype, "shape": list(s.shape)} for s in specs]
        for side, specs in (
            ("inputs", signature.inputs),
            ("outputs", signature.outputs),
        )
    }


def index(directory: Directory, key: Key) -> list[dict[str, str]]:
    """The running versions that this key may call, as the model repository extension lists them."""
    found = []
    for name, routes in sorted(directory.snapshot.routes.items()):
        try:
            directory.permit(key, name, "" if len(key.purposes) == 1 else key.purposes[0])
        except CityBrainError:
            continue  # a department does not learn what it may not call
        for route in routes:
            why = directory.snapshot.trouble(route)
            state = "UNAVAILABLE" if why else "READY"
            found.append(
                {"name": name, "version": str(route.version), "state": state, "reason": why}
            )
    return found
