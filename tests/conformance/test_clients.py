"""Unmodified tritonclient, in each of its ways, against every door."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Queue

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from conformance.bodies import DATATYPES, SAMPLES

pytestmark = pytest.mark.platform
feature = pytest.mark.feature
JSON, BINARY, GRPC, STREAM = (
    pytest.mark.door(name) for name in ("REST, JSON", "REST, binary", "gRPC", "gRPC stream")
)
NUMPY = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_,
}  # fmt: skip


def array(datatype):
    """A sample as tritonclient wants it: texts as bytes."""
    found = np.array(SAMPLES[datatype], dtype=NUMPY[datatype])
    if datatype == "BYTES":
        found = np.array([[text.encode() for text in SAMPLES["BYTES"][0]]], dtype=np.object_)
    return found


def given(module, datatype="FP32", values=None, **more):
    values = array(datatype) if values is None else values
    found = module.InferInput(f"x_{datatype.lower()}", list(values.shape), datatype)
    found.set_data_from_numpy(values, **more)
    return [found]


def wanted(module, name, **more):
    return [module.InferRequestedOutput(name, **more)]


@pytest.fixture(scope="module")
def http(server):
    with triton_http.InferenceServerClient(server.address, concurrency=8) as found:
        yield found


@pytest.fixture(scope="module")
def rpc(server):
    with triton_grpc.InferenceServerClient(server.grpc) as found:
        yield found


BOTH = [
    pytest.param(go, come, marks=BINARY if go or come else JSON, id=f"{go}-{come}")
    for go in (True, False)
    for come in (True, False)
]


@feature("tritonclient: every datatype")
@pytest.mark.parametrize(("go", "come"), BOTH)
@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("FP16", "BF16")])
def test_http_with_binary_on_and_off(server, http, datatype, go, come):
    name = f"y_{datatype.lower()}"
    answer = http.infer(
        server.model, given(triton_http, datatype, binary_data=go), headers=server.headers,
        outputs=wanted(triton_http, name, binary_data=come),
    )  # fmt: skip
    found = answer.as_numpy(name)
    if datatype == "BYTES" and not come:
        found = np.array([[text.encode() for text in found[0]]], dtype=np.object_)
    np.testing.assert_array_equal(found, array(datatype))


@feature("tritonclient: every datatype")
@BINARY
@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_http_with_half_precision(server, http, datatype):
    """tritonclient sends and reads these as raw bytes only."""
    name = f"y_{datatype.lower()}"
    answer = http.infer(
        server.model, given(triton_http, datatype), headers=server.headers,
        outputs=wanted(triton_http, name),
    )  # fmt: skip
    np.testing.assert_array_equal(answer.as_numpy(name), array(datatype))


@feature("tritonclient: every datatype")
@GRPC
@pytest.mark.parametrize("datatype", DATATYPES)
def test_grpc(server, rpc, datatype):
    name = f"y_{datatype.lower()}"
    answer = rpc.infer(
        server.model, given(triton_grpc, datatype), headers=server.headers,
        outputs=wanted(triton_grpc, name), request_id="7",
    )  # fmt: skip
    np.testing.assert_array_equal(answer.as_numpy(name), array(datatype))
    assert answer.get_response().id == "7"


@feature("tritonclient: string tensors")
@pytest.mark.parametrize(
    "module", [pytest.param(triton_http, marks=BINARY), pytest.param(triton_grpc, marks=GRPC)]
)
def test_an_array_of_python_strings(server, http, rpc, module):
    client = http if module is triton_http else rpc
    texts = np.array([["路灯", "road", ""]], dtype=np.object_)
    answer = client.infer(
        server.model, given(module, "BYTES", texts), headers=server.headers,
        outputs=wanted(module, "y_bytes"),
    )  # fmt: skip
    assert [text.decode() for text in answer.as_numpy("y_bytes")[0]] == ["路灯", "road", ""]


@feature("tritonclient: packed bodies")
@BINARY
@pytest.mark.parametrize("request_way", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_way", [None, "gzip", "deflate"])
def test_http_packed(server, http, request_way, response_way):
    answer = http.infer(
        server.model, given(triton_http), headers=dict(server.headers),
        request_compression_algorithm=request_way, response_compression_algorithm=response_way,
    )  # fmt: skip
    np.testing.assert_array_equal(answer.as_numpy("y_fp32"), array("FP32"))


@feature("tritonclient: packed bodies")
@GRPC
@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_grpc_packed(server, rpc, way):
    answer = rpc.infer(
        server.model, given(triton_grpc), headers=server.headers, compression_algorithm=way
    )
    np.testing.assert_array_equal(answer.as_numpy("y_fp32"), array("FP32"))


@feature("tritonclient: async_infer")
@BINARY
def test_http_async_infer(server, http):
    waiting = [
        http.async_infer(
            server.model, given(triton_http, "INT64", np.array([[n]])), headers=server.headers
        )
        for n in range(40)
    ]
    found = [call.get_result().as_numpy("y_int64").item() for call in waiting]
    assert found == list(range(40))


@feature("tritonclient: async_infer")
@GRPC
def test_grpc_async_infer(server, rpc):
    done = Queue()
    for n in range(40):
        rpc.async_infer(
            server.model, given(triton_grpc, "INT64", np.array([[n]])), headers=server.headers,
            callback=lambda result, error: done.put((result, error)),
        )  # fmt: skip
    answers = [done.get(timeout=20) for _ in range(40)]
    assert not [error for _, error in answers if error]
    assert {r.as_numpy("y_int64").item() for r, _ in answers} == set(range(40))


@feature("tritonclient: asyncio")
@BINARY
def test_http_aio(server):
    async def run():
        async with triton_http_aio.InferenceServerClient(server.address) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready(server.model, headers=server.headers)
            calls = [
                client.infer(
                    server.model, given(triton_http, "INT64", np.array([[n]])),
                    headers=server.headers,
                )
                for n in range(20)
            ]  # fmt: skip
            return [answer.as_numpy("y_int64").item() for answer in await asyncio.gather(*calls)]

    assert asyncio.run(run()) == list(range(20))


@feature("tritonclient: asyncio")
@GRPC
def test_grpc_aio(server):
    async def run():
        async with triton_grpc_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_server_ready()
            calls = [
                client.infer(
                    server.model, given(triton_grpc, "INT64", np.array([[n]])),
                    headers=server.headers,
                )
                for n in range(20)
            ]  # fmt: skip
            return [answer.as_numpy("y_int64").item() for answer in await asyncio.gather(*calls)]

    assert asyncio.run(run()) == list(range(20))


@feature("tritonclient: asyncio")
@STREAM
def test_grpc_aio_stream(server):
    async def run():
        async def requests():
            for n in range(20):
                yield {
                    "model_name": server.model, "request_id": str(n),
                    "inputs": given(triton_grpc, "INT64", np.array([[n]])),
                }  # fmt: skip

        async with triton_grpc_aio.InferenceServerClient(server.grpc) as client:
            stream = client.stream_infer(requests(), headers=server.headers)
            return [(r.as_numpy("y_int64").item(), error) async for r, error in stream]

    assert asyncio.run(run()) == [(n, None) for n in range(20)]


@feature("tritonclient: streams")
@STREAM
@pytest.mark.parametrize("final", [False, True], ids=["plain", "final response asked for"])
def test_grpc_stream(server, final):
    done = Queue()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: done.put((result, error)), headers=server.headers)
        for n in range(30):
            client.async_stream_infer(
                server.model, given(triton_grpc, "INT64", np.array([[n]])), request_id=str(n),
                enable_empty_final_response=final,
            )  # fmt: skip
        answers = [done.get(timeout=20) for _ in range(30)]
        client.stop_stream()
    assert [result.as_numpy("y_int64").item() for result, _ in answers] == list(range(30))
    if final:
        marks = [r.get_response().parameters["triton_final_response"] for r, _ in answers]
        assert all(mark.bool_param for mark in marks)


@feature("tritonclient: streams")
@STREAM
def test_grpc_stream_gives_an_error_to_its_request(server):
    done = Queue()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: done.put((result, error)), headers=server.headers)
        client.async_stream_infer(
            server.model, given(triton_grpc), outputs=wanted(triton_grpc, "colour")
        )
        client.async_stream_infer(server.model, given(triton_grpc))
        (_, error), (result, nothing) = done.get(timeout=20), done.get(timeout=20)
        client.stop_stream()
    assert isinstance(error, InferenceServerException)
    assert nothing is None
    np.testing.assert_array_equal(result.as_numpy("y_fp32"), array("FP32"))


@feature("tritonclient: health and metadata")
@pytest.mark.parametrize(
    "door", [pytest.param("http", marks=JSON), pytest.param("rpc", marks=GRPC)]
)
def test_health_and_metadata(server, request, door):
    client = request.getfixturevalue(door)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(server.model, headers=server.headers)
    more = {} if door == "http" else {"as_json": True}
    assert client.get_server_metadata(headers=server.headers, **more)["name"]
    found = client.get_model_metadata(server.model, headers=server.headers, **more)
    assert {entry["name"] for entry in found["inputs"]} == {f"x_{n.lower()}" for n in DATATYPES}


@feature("tritonclient: health and metadata")
@pytest.mark.parametrize(
    "door", [pytest.param("http", marks=JSON), pytest.param("rpc", marks=GRPC)]
)
def test_the_repository_index(server, request, door):
    client = request.getfixturevalue(door)
    more = {} if door == "http" else {"as_json": True}
    found = client.get_model_repository_index(headers=server.headers, **more)
    entries = found if door == "http" else found["models"]
    assert server.model in {entry["name"] for entry in entries}


@feature("tritonclient: errors")
@pytest.mark.parametrize(
    "module", [pytest.param(triton_http, marks=BINARY), pytest.param(triton_grpc, marks=GRPC)]
)
@pytest.mark.parametrize("harm", ["model", "version", "output", "bytes"])
def test_errors_are_exceptions_with_a_text(server, http, rpc, module, harm):
    client = http if module is triton_http else rpc
    inputs = given(module)
    if harm == "bytes":
        inputs[0].set_shape([1, 4])
    with pytest.raises(InferenceServerException) as error:
        client.infer(
            "no-such-thing" if harm == "model" else server.model, inputs, headers=server.headers,
            model_version="99" if harm == "version" else "",
            outputs=wanted(module, "colour" if harm == "output" else "y_fp32"),
        )  # fmt: skip
    assert len(error.value.message()) > 10


@feature("tritonclient: errors")
@GRPC
def test_a_client_timeout_is_the_deadline(server, rpc):
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        rpc.infer(
            server.model, given(triton_grpc, "FP64", np.ones((1, 200_000))),
            headers=server.headers, client_timeout=0.001,
        )  # fmt: skip


def _one(server, module, client, n):
    answer = client.infer(
        server.model, given(module, "INT64", np.array([[n, -n]])), headers=server.headers,
        outputs=wanted(module, "y_int64"),
    )  # fmt: skip
    return answer.as_numpy("y_int64").tolist() == [[n, -n]]


@feature("concurrency")
@pytest.mark.parametrize(
    "module", [pytest.param(triton_http, marks=BINARY), pytest.param(triton_grpc, marks=GRPC)]
)
def test_callers_side_by_side_get_their_own_answers(server, module):
    """Eight threads with a client each; geventhttpclient is not shared between threads."""

    def many(start):
        address = server.address if module is triton_http else server.grpc
        with module.InferenceServerClient(address) as client:
            return all(map(partial(_one, server, module, client), range(start, start + 40)))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(many, range(0, 8000, 1000)))
