"""Ask another server by `tritonclient`, within bounds of time and size.

Nothing that comes back is believed: it is read up to a limit, never unpacked, no redirect is
followed, and an answer must have the names, datatypes, shapes and rows that were registered.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from citybrain.core.errors import BadPackage, BadTensor, CityBrainError, ModelFailed, RemoteDown
from citybrain.core.settings import Settings
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array, Tensors, TensorSpec, bytes_array
from citybrain.models.remote import MAX_BATCH, Address, RemoteModel, check_listed
from citybrain.models.remote_answer import bounded_client, first_line

log = logging.getLogger(__name__)
Found = TypeVar("Found")

CONNECT_SECONDS = 5.0
GRACE = 2.0
"""Seconds after which the thread itself is given up, should it not see that the time is over."""
LATE = "StatusCode.DEADLINE_EXCEEDED"
NOT_READY = "The server that this model lies on does not say that the model is ready."
UP = "Repeat it once that server is up."
BUSY = {"429", "502", "503", "504", "StatusCode.UNAVAILABLE"}


class RemoteServer:
    """One connection, on a thread of its own: tritonclient's clients belong to one thread each.

    Made for a listed host or not at all. The list and the limits are read here, and not handed in,
    because a runtime is made without arguments: a process that was told of no host reaches none.
    """

    def __init__(self, address: Address, *, most_seconds: float = math.inf) -> None:
        settings = Settings().remote
        check_listed(address, settings.hosts)
        self.address = address
        self.name = ""
        """What the server says that it is, once it was asked."""
        self._seconds, self._limit = min(settings.seconds, most_seconds), settings.max_answer
        self._grpc = address.scheme == "triton+grpc"
        with needs():
            if self._grpc:
                import tritonclient.grpc as library
            else:
                import tritonclient.http as library
        self._library: Any = library
        self._binary: dict[str, bool] = {}
        # Of gRPC's calls each is bounded; of HTTP's the whole, in `_timed`.
        self._bound = {"client_timeout": self._seconds} if self._grpc else {}
        self._client: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="remote")

    def read(self) -> RemoteModel:
        """What the server tells of the model now; BadPackage where it has none that is ready."""
        try:
            told = self._ask(self._metadata, self.address.place)
        except CityBrainError:
            raise
        except Exception as error:
            raise BadPackage(
                f"{self.address} does not tell its tensors: {first_line(error)}.",
                hint="Check name and version there.",
            ) from error
        return RemoteModel.of(told, str(self.address))

    def ready(self) -> None:
        """RemoteDown unless the server says in time that it has the model ready."""
        place = (self.address.model, self.address.version)
        try:
            found = self._ask(lambda client: client.is_model_ready(*place, **self._bound))
        except RemoteDown:
            raise
        except Exception as error:  # whatever it answers, the answer is not yes
            raise RemoteDown(NOT_READY, hint=UP) from error
        if not found:
            raise RemoteDown(NOT_READY, hint=UP)

    def infer(self, model: RemoteModel, inputs: Tensors) -> Tensors:
        """One call; ModelFailed unless the answer is what was registered."""
        signature = model.signature()
        if len(signature.inputs) == 1 and len(inputs) == 1:  # whatever the caller's name for it
            inputs = {signature.inputs[0].name: next(iter(inputs.values()))}
        rows = signature.check_inputs(inputs)
        asked = []
        for spec in signature.inputs:
            tensor = self._library.InferInput(spec.name, inputs[spec.name].shape, spec.dtype)
            asked.append(tensor.set_data_from_numpy(inputs[spec.name], **self._binary))
        wanted = [
            self._library.InferRequestedOutput(spec.name, **self._binary)
            for spec in signature.outputs
        ]

        def call(client: Any) -> Any:
            return client.infer(
                self.address.model, asked, self.address.version, wanted, **self._bound
            )

        try:
            return self._checked(self._ask(call), signature.outputs, rows)
        except CityBrainError:
            raise
        except Exception as error:
            log.warning("%s: %s", self.address, first_line(error))
            raise ModelFailed(
                f"The remote model failed: {first_line(error)}.",
                hint="Its developers look at the server that it lies on.",
            ) from error

    def close(self) -> None:
        """Hang up, and end the thread."""
        self._thread.submit(self._hang_up, last=True)
        self._thread.shutdown(wait=False)

    def _ask(self, what: Callable[[Any], Found], who: str = "") -> Found:
        """Do it on the thread; RemoteDown when no answer comes, other errors as they are.

        Who is not told `who` is a caller, and need not learn where the model lies.
        """
        try:
            return self._thread.submit(self._timed, what).result(self._seconds + GRACE)
        except Exception as error:
            reason = self._silence(error)
            if not reason:
                raise
            self._thread.submit(self._hang_up)  # the next call begins with a new connection
            raise RemoteDown(
                f"{who} does not answer: {reason}."
                if who
                else "The server that this model lies on does not answer; "
                f"it is given {self._seconds:g} s for a call.",
                hint=UP,
            ) from error

    def _timed(self, what: Callable[[Any], Found]) -> Found:
        if self._client is None:
            self._client = self._open()
        if self._grpc:
            return what(self._client)
        import gevent

        with gevent.Timeout(self._seconds, TimeoutError()):
            return what(self._client)

    def _open(self) -> Any:
        if self._grpc:
            return self._library.InferenceServerClient(
                self.address.place,
                channel_args=[
                    ("grpc.max_receive_message_length", self._limit),
                    ("grpc.max_send_message_length", -1),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.use_local_subchannel_pool", 1),
                ],
            )
        return bounded_client(self._library, self._limit)(
            self.address.place,
            connection_timeout=min(CONNECT_SECONDS, self._seconds),
            network_timeout=self._seconds,
        )

    def _hang_up(self, *, last: bool = False) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if last and not self._grpc:
            import gevent

            gevent.get_hub().destroy(destroy_loop=True)

    def _metadata(self, client: Any) -> dict[str, Any]:
        model, version = self.address.model, self.address.version
        plain = {"as_json": True} if self._grpc else {}
        if not client.is_server_live(**self._bound):
            raise BadPackage(f"{self.address.place} does not say that it is live.")
        if not client.is_model_ready(model, version, **self._bound):
            raise BadPackage(
                f"{self.address.place} has no model {str(self.address).rpartition('/')[2]} ready.",
                hint="Check name and version, and load it there.",
            )
        server = client.get_server_metadata(**plain, **self._bound)
        self.name = first_line(f"{server.get('name', '')} {server.get('version', '')}")
        found = client.get_model_metadata(model, version, **plain, **self._bound)
        extensions = server.get("extensions") or ()
        if not self._grpc:  # gRPC is binary always
            self._binary = {"binary_data": "binary_tensor_data" in extensions}
        most = 0
        if "model_configuration" in extensions:  # Triton's; other servers cannot tell
            config = client.get_model_config(model, version, **plain, **self._bound)
            most = int(config.get("config", config).get("max_batch_size", 0))
        return {"address": str(self.address), "max_batch": most or MAX_BATCH} | {
            side: [
                {"name": one.get("name"), "dtype": one.get("datatype"), "shape": one.get("shape")}
                for one in found[side]
            ]
            for side in ("inputs", "outputs")
        }

    def _checked(self, answer: Any, specs: tuple[TensorSpec, ...], rows: int) -> Tensors:
        told = answer.get_response()
        names = (
            [o.name for o in told.outputs] if self._grpc else [o["name"] for o in told["outputs"]]
        )
        if sorted(names) != sorted(spec.name for spec in specs):
            raise ValueError(f"it answers with the outputs {', '.join(map(str, names))}")
        found = {spec.name: _array(answer.as_numpy(spec.name), spec) for spec in specs}
        for name, array in found.items():
            if len(array) != rows:
                raise ValueError(f"output {name!r} has {len(array)} rows for {rows}")
        return found

    def _silence(self, error: Exception) -> str:
        """Why there is no answer; empty when there is one, such as it is."""
        from tritonclient.utils import InferenceServerException

        status = error.status() if isinstance(error, InferenceServerException) else ""
        if isinstance(error, TimeoutError) or status == LATE:
            return f"nothing came within {self._seconds:g} s"
        # An error of the HTTP library itself: the answer broke off, or is no HTTP.
        broken = type(error).__module__.startswith("geventhttpclient")
        return first_line(error) * (isinstance(error, OSError) or broken or status in BUSY)


def _array(array: Any, spec: TensorSpec) -> Array:
    """An output as it was registered; ValueError."""
    if array is None:
        raise ValueError(f"output {spec.name!r} has no data")
    if spec.dtype == "BYTES" and array.dtype == np.object_:
        flat = [value.encode() if isinstance(value, str) else value for value in array.ravel()]
        if not all(isinstance(value, bytes) for value in flat):
            raise ValueError(f"output {spec.name!r} does not hold texts")
        array = bytes_array(flat, array.shape)
    try:
        spec.check_form(array)
    except BadTensor as error:
        raise ValueError(error.message.rstrip(".")) from error
    found: Array = array
    return found
