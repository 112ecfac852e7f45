"""Open Inference Protocol v2 over gRPC: one call, one answer."""

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from conformance.bodies import DATATYPES, SAMPLES, flat, pack, unpack

pytestmark = [pytest.mark.platform, pytest.mark.door("gRPC")]
feature = pytest.mark.feature
TYPED = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def typed(server, datatype, values=None, *, field=None, shape=(1, 3), **more):
    """A request with typed contents."""
    values = flat(SAMPLES[datatype]) if values is None else values
    message = pb.ModelInferRequest(model_name=server.model, **more)
    entry = message.inputs.add(name=f"x_{datatype.lower()}", datatype=datatype, shape=shape)
    if datatype == "BYTES":
        values = [value.encode() for value in values]
    getattr(entry.contents, field or TYPED[datatype]).extend(values)
    message.outputs.add(name=f"y_{datatype.lower()}")
    return message


def outputs_of(answer):
    """Outputs by name: datatype, shape, values; raw or typed, as the server likes."""
    found = {}
    for index, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            values = unpack(output.datatype, answer.raw_output_contents[index])
        else:
            values = list(getattr(output.contents, TYPED[output.datatype]))
            values = [v.decode() if isinstance(v, bytes) else v for v in values]
        found[output.name] = (output.datatype, list(output.shape), values)
    return found


def refused(server, message, code=grpc.StatusCode.INVALID_ARGUMENT, **more):
    """An error; the protocol does not say that wrong input is INVALID_ARGUMENT, but we do."""
    with pytest.raises(grpc.RpcError) as error:
        server.infer(message, **more)
    if server.version or code != grpc.StatusCode.INVALID_ARGUMENT:
        assert error.value.code() == code, error.value.details()
    assert error.value.code() != grpc.StatusCode.UNAVAILABLE
    assert error.value.details()
    assert "Traceback" not in error.value.details()
    return error.value


@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_contents_come_back(server, datatype):
    answer = server.infer(server.message(datatype, outputs=[f"y_{datatype.lower()}"]))
    assert outputs_of(answer) == {
        f"y_{datatype.lower()}": (datatype, [1, 3], flat(SAMPLES[datatype]))
    }


@feature("every datatype")
@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_come_back(server, datatype):
    answer = server.infer(typed(server, datatype))
    assert outputs_of(answer) == {
        f"y_{datatype.lower()}": (datatype, [1, 3], flat(SAMPLES[datatype]))
    }


@feature("every datatype")
def test_many_tensors_go_and_come_together(server):
    answer = server.infer(server.message(*DATATYPES))
    found = outputs_of(answer)
    for datatype in DATATYPES:
        assert found[f"y_{datatype.lower()}"][2] == flat(SAMPLES[datatype])


@feature("contents")
@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_typed_contents(server, datatype):
    refused(server, typed(server, datatype, field="fp32_contents"))


@feature("contents")
def test_raw_and_typed_contents_of_one_input_are_refused(server):
    message = server.message("FP32")
    message.inputs[0].contents.fp32_contents.extend([1.0, 2.0, 3.0])
    refused(server, message)


@feature("contents")
def test_raw_and_typed_contents_in_one_request_are_refused(server):
    message = server.message("FP32")
    entry = message.inputs.add(name="x_int32", datatype="INT32", shape=[1, 1])
    entry.contents.int_contents.append(1)
    refused(server, message)


@feature("contents")
def test_an_input_without_contents_is_refused(server):
    message = server.message("FP32")
    del message.raw_input_contents[:]
    refused(server, message)


@feature("contents")
def test_more_raw_contents_than_inputs_are_refused(server):
    message = server.message("FP32")
    message.raw_input_contents.append(b"\0" * 12)
    refused(server, message)


@feature("contents")
@pytest.mark.parametrize(
    ("datatype", "field"),
    [("FP32", "fp64_contents"), ("FP32", "int_contents"), ("INT64", "int_contents"),
     ("UINT8", "int_contents"), ("BOOL", "int_contents")],
)  # fmt: skip
def test_contents_of_another_datatype_are_refused(server, datatype, field):
    refused(server, typed(server, datatype, [1, 2, 3], field=field))


@feature("contents")
@pytest.mark.parametrize("count", [1, 2, 4, 100])
def test_typed_contents_that_do_not_fill_the_shape_are_refused(server, count):
    refused(server, typed(server, "FP32", [1.0] * count))


@feature("contents")
@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT16", -(2**15) - 1), ("UINT8", 256), ("UINT16", 2**16)],
)
def test_a_typed_value_beyond_its_datatype_is_refused(server, datatype, value):
    refused(server, typed(server, datatype, [value, 0, 0]))


@feature("wrong tensors refused")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_one_byte_too_few_is_refused(server, datatype):
    message = server.message(datatype)
    message.raw_input_contents[0] = pack(datatype, SAMPLES[datatype])[:-1]
    refused(server, message)


@feature("wrong tensors refused")
@pytest.mark.parametrize("datatype", ["INT32", "FP64", "BYTES"])
def test_one_element_too_many_is_refused(server, datatype):
    message = server.message(datatype)
    message.raw_input_contents[0] += pack(datatype, SAMPLES[datatype][0][:1])
    refused(server, message)


@feature("shapes refused")
@pytest.mark.parametrize(
    "shape",
    [[-1, 3], [1, -3], [1, 2], [1, 4], [2**40, 2**40], [0, 2**62], [2**63 - 1] * 8, [1] * 70],
)
def test_a_shape_that_cannot_be_is_refused(server, shape):
    message = server.message("FP32")
    del message.inputs[0].shape[:]
    message.inputs[0].shape.extend(shape)
    refused(server, message)


@pytest.mark.ours
@feature("shapes refused")
@pytest.mark.parametrize("shape", [[], [3], [1, 1, 3]])
def test_a_shape_that_the_model_does_not_take_is_refused(server, shape):
    message = server.message("FP32", values=[[1.0]] if not shape else None)
    del message.inputs[0].shape[:]
    message.inputs[0].shape.extend(shape)
    refused(server, message)


@feature("shapes")
@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (64, 64), (1, 0)])
def test_every_size_of_batch_and_row_is_served(server, shape):
    rows = [[float(row + column) for column in range(shape[1])] for row in range(shape[0])]
    answer = server.infer(server.message("FP32", values=rows, outputs=["twice"]))
    assert outputs_of(answer)["twice"] == ("FP32", list(shape), [2 * v for v in flat(rows)])


@feature("wrong tensors refused")
@pytest.mark.parametrize("datatype", ["FP33", "", "fp32", "INT"])
def test_an_unknown_datatype_is_refused(server, datatype):
    message = server.message("FP32")
    message.inputs[0].datatype = datatype
    refused(server, message)


@feature("wrong tensors refused")
def test_the_same_input_twice_is_refused(server):
    refused(server, server.message("FP32", "FP32"))


@feature("wrong tensors refused")
def test_a_request_without_inputs_is_refused(server):
    refused(server, server.message())


@pytest.mark.ours
@feature("wrong tensors refused")
@pytest.mark.parametrize("name", ["", "x_colour", "x_fp64", "é" * 500])
def test_an_input_that_the_model_does_not_have_is_refused(server, name):
    message = server.message("FP32")
    message.inputs[0].name = name
    refused(server, message)


@pytest.mark.ours
@feature("wrong tensors refused")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", ["raw", "typed"])
def test_nan_and_infinity_are_refused(server, value, way):
    if way == "raw":
        refused(server, server.message("FP32", values=[[value]]))
    else:
        refused(server, typed(server, "FP32", [value, 0.0, 0.0]))


@feature("outputs asked for")
def test_only_the_outputs_that_are_asked_for_come(server):
    assert set(outputs_of(server.infer(server.message("FP32", outputs=["twice"])))) == {"twice"}


@feature("outputs asked for")
def test_without_a_wish_all_outputs_come(server):
    assert {"twice", "y_fp32"} <= set(outputs_of(server.infer(server.message("FP32"))))


@feature("outputs asked for")
def test_an_unknown_output_is_refused(server):
    refused(server, server.message("FP32", outputs=["colour"]))


@feature("request id")
@pytest.mark.parametrize("name", ["7", "桥-1", ""])
def test_the_id_comes_back(server, name):
    answer = server.infer(server.message("FP32", id=name, outputs=["twice"]))
    assert answer.id == name or not name


@feature("model named in the answer")
def test_the_answer_names_the_model(server):
    assert server.infer(server.message("FP32", outputs=["twice"])).model_name == server.model


@feature("parameters")
def test_parameters_that_mean_nothing_here_are_ignored(server):
    message = server.message("FP32", outputs=["twice"])
    for holder in (message, message.inputs[0], message.outputs[0]):
        holder.parameters["colour"].string_param = "red"
    assert set(outputs_of(server.infer(message))) == {"twice"}


@pytest.mark.ours
@feature("parameters")
@pytest.mark.parametrize("name", ["classification", "shared_memory_region"])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_an_extension_that_is_not_served_is_refused_and_not_ignored(server, name, side):
    message = server.message("FP32", outputs=["twice"])
    getattr(message, side)[0].parameters[name].int64_param = 3
    refused(server, message)


@feature("unknown models and versions")
@pytest.mark.parametrize(("name", "version"), [("no-such-thing", ""), (None, "99")])
def test_a_model_that_is_not_there_is_not_found(server, name, version):
    message = server.message("FP32", model_version=version)
    message.model_name = name or server.model
    refused(server, message, grpc.StatusCode.NOT_FOUND)


@pytest.mark.ours
@feature("versions and aliases")
def test_a_version_may_be_named(server):
    answer = server.infer(server.message("FP32", model_version=server.version, outputs=["twice"]))
    assert answer.model_version == server.version


@feature("broken messages refused")
@pytest.mark.parametrize(
    "body", [b"\xff", b"\x0a\xff\xff", b"\x00" * 40, b"{}", b"\x0a\x02\xff\xfe"]
)
def test_bytes_that_are_no_message_are_refused(server, body):
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
            body, metadata=server.metadata, timeout=20
        )
    if server.version:
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.code() != grpc.StatusCode.UNAVAILABLE


@feature("packed bodies")
@pytest.mark.parametrize("way", ["Gzip", "Deflate"])
def test_a_packed_message_is_unpacked(server, way):
    packed = getattr(grpc.Compression, way)
    answer = server.infer(server.message("FP32", outputs=["twice"]), compression=packed)
    assert set(outputs_of(answer)) == {"twice"}


@feature("deadlines")
def test_a_call_that_cannot_keep_its_deadline_ends_in_time(server):
    message = server.message("FP64", values=[[1.0] * 200_000])
    refused(server, message, grpc.StatusCode.DEADLINE_EXCEEDED, timeout=0.001)


@pytest.mark.ours
@feature("deadlines")
@pytest.mark.parametrize("value", ["0", "abc", "-1"])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(server, value):
    refused(server, server.message("FP32"), metadata=(("x-request-timeout-ms", value),))


@pytest.mark.ours
@feature("deadlines")
def test_a_deadline_in_the_metadata_counts_too(server):
    message = server.message("FP64", values=[[1.0] * 500_000])
    error = refused(
        server, message, grpc.StatusCode.DEADLINE_EXCEEDED,
        metadata=(("x-request-timeout-ms", "1"),),
    )  # fmt: skip
    assert dict(error.trailing_metadata())["citybrain-code"] == "deadline_exceeded"


@feature("cancellation")
def test_a_cancelled_call_leaves_the_server_answering(server):
    with server.stub() as stub:
        message = server.message("FP64", values=[[1.0] * 200_000])
        call = stub.ModelInfer.future(message, metadata=server.metadata)
        call.cancel()
    assert set(outputs_of(server.infer(server.message("FP32", outputs=["twice"])))) == {"twice"}


@pytest.mark.ours
@feature("keys and purposes")
@pytest.mark.parametrize("token", ["", "Basic x", "Bearer wrong"])
def test_a_call_without_a_good_key_is_refused(server, token):
    metadata = (("authorization", token),) if token else ()
    with server.stub() as stub, pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(server.message("FP32"), metadata=metadata, timeout=20)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert dict(error.value.trailing_metadata())["citybrain-code"] in ("missing_key", "bad_key")


@pytest.mark.ours
@feature("headers")
def test_every_answer_has_an_id(server):
    with server.stub() as stub:
        _, call = stub.ModelInfer.with_call(server.message("FP32"), metadata=server.metadata)
    assert len(dict(call.trailing_metadata())["x-request-id"]) == 32
