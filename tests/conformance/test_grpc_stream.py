"""`ModelStreamInfer`: many requests on one stream, each with its answer, in order."""

import queue
import time

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from conformance.bodies import DATATYPES, SAMPLES, flat, unpack

pytestmark = [pytest.mark.platform, pytest.mark.door("gRPC stream")]
feature = pytest.mark.feature


def ask(server, *messages, metadata=None, timeout=30):
    """All answers to these requests on one stream."""
    with server.stub() as stub:
        metadata = server.metadata if metadata is None else metadata
        return list(stub.ModelStreamInfer(iter(messages), metadata=metadata, timeout=timeout))


def values(answer):
    """The first output of an answer that is no error."""
    assert not answer.error_message, answer.error_message
    response = answer.infer_response
    (output,) = response.outputs
    if response.raw_output_contents:
        return unpack(output.datatype, response.raw_output_contents[0])
    return list(output.contents.fp32_contents)


def numbered(server, count):
    return [
        server.message("FP32", values=[[float(n)]], id=str(n), outputs=["twice"])
        for n in range(count)
    ]


@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_contents_come_back(server, datatype):
    (answer,) = ask(server, server.message(datatype, outputs=[f"y_{datatype.lower()}"]))
    assert values(answer) == flat(SAMPLES[datatype])


@feature("order")
@pytest.mark.parametrize("count", [1, 2, 50, 300])
def test_requests_are_answered_in_their_order(server, count):
    answers = ask(server, *numbered(server, count))
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(count)]
    assert [values(answer) for answer in answers] == [[2.0 * n] for n in range(count)]


@feature("order")
def test_a_large_request_before_a_small_one_is_answered_first(server):
    large = server.message("FP64", values=[[0.5] * 300_000], id="large", outputs=["y_fp64"])
    answers = ask(server, large, *numbered(server, 3))
    assert [answer.infer_response.id for answer in answers] == ["large", "0", "1", "2"]


@feature("order")
def test_an_answer_comes_before_the_next_request_is_made(server):
    """A client that asks, reads, and asks again on the same stream is not kept waiting."""
    sent = queue.Queue()
    with server.stub() as stub:
        answers = stub.ModelStreamInfer(iter(sent.get, None), metadata=server.metadata, timeout=30)
        for message in numbered(server, 5):
            sent.put(message)
            assert next(answers).infer_response.id == message.id
        sent.put(None)
        assert list(answers) == []


@feature("errors on a stream")
def test_a_stream_without_requests_ends_well(server):
    assert ask(server) == []


@feature("errors on a stream")
@pytest.mark.parametrize("harm", ["name", "shape", "contents", "output", "model", "version"])
def test_an_error_is_the_answer_of_its_request_and_the_stream_goes_on(server, harm):
    before, wrong, after = numbered(server, 3)
    if harm == "name":
        wrong.inputs[0].datatype = "FP33"
    elif harm == "shape":
        wrong.inputs[0].shape[0] = -1
    elif harm == "contents":
        del wrong.raw_input_contents[:]
    elif harm == "output":
        wrong.outputs[0].name = "colour"
    elif harm == "model":
        wrong.model_name = "no-such-thing"
    else:
        wrong.model_version = "99"
    first, error, last = ask(server, before, wrong, after)
    assert error.error_message
    assert "Traceback" not in error.error_message
    assert error.infer_response.id == "1"
    assert (values(first), values(last)) == ([0.0], [4.0])


@pytest.mark.ours
@feature("errors on a stream")
def test_an_error_carries_its_stable_code(server):
    wrong = server.message("FP32", outputs=["colour"])
    (error,) = ask(server, wrong)
    assert error.infer_response.parameters["citybrain-code"].string_param == "bad_tensor"


@pytest.mark.ours
@feature("errors on a stream")
def test_bytes_that_are_no_message_are_answered_with_an_error(server):
    good = server.message("FP32", outputs=["twice"]).SerializeToString()
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        answers = call(iter([b"\xff", good]), metadata=server.metadata, timeout=30)
        error, answer = list(answers)
    assert "cannot be decoded" in error.error_message
    assert values(answer) == [2 * value for value in flat(SAMPLES["FP32"])]


@pytest.mark.ours
@feature("keys and purposes")
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
def test_a_stream_without_a_good_key_is_ended(server, metadata):
    with pytest.raises(grpc.RpcError) as error:
        ask(server, *numbered(server, 3), metadata=metadata)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert dict(error.value.trailing_metadata())["citybrain-code"] in ("missing_key", "bad_key")


@pytest.mark.ours
@feature("keys and purposes")
def test_a_purpose_that_the_key_does_not_have_is_an_error_of_the_request(server):
    metadata = (*server.metadata, ("x-purpose", "advertising"))
    (error,) = ask(server, *numbered(server, 1), metadata=metadata)
    assert error.infer_response.parameters["citybrain-code"].string_param == "not_granted"


@pytest.mark.ours
@feature("headers")
def test_every_answer_has_an_id_of_its_own_and_is_marked_as_the_last(server):
    answers = ask(server, *numbered(server, 3))
    told = [answer.infer_response.parameters for answer in answers]
    assert len({found["x-request-id"].string_param for found in told}) == 3
    assert all(found["triton_final_response"].bool_param for found in told)


@feature("cancellation")
@pytest.mark.parametrize("read", [0, 1])
def test_a_cancelled_stream_leaves_the_server_answering(server, read):
    with server.stub() as stub:
        answers = stub.ModelStreamInfer(iter(numbered(server, 100)), metadata=server.metadata)
        for _ in range(read):
            next(answers)
        answers.cancel()
        with pytest.raises(grpc.RpcError) as error:
            list(answers)
        assert error.value.code() == grpc.StatusCode.CANCELLED
    (answer,) = ask(server, *numbered(server, 1))
    assert values(answer) == [0.0]


@feature("deadlines")
def test_a_stream_ends_at_its_deadline(server):
    never = queue.Queue()
    began = time.monotonic()
    with server.stub() as stub, pytest.raises(grpc.RpcError) as error:
        list(stub.ModelStreamInfer(iter(never.get, None), metadata=server.metadata, timeout=0.3))
    never.put(None)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5


@pytest.mark.ours
@feature("deadlines")
def test_a_deadline_in_the_metadata_is_that_of_each_request(server):
    late = server.message("FP64", values=[[1.0] * 500_000], outputs=["y_fp64"])
    metadata = (*server.metadata, ("x-request-timeout-ms", "1"))
    (error,) = ask(server, late, metadata=metadata)
    assert error.infer_response.parameters["citybrain-code"].string_param == "deadline_exceeded"


@feature("connections")
def test_streams_side_by_side_do_not_mix(server):
    with server.stub() as stub:
        calls = [
            stub.ModelStreamInfer(
                iter([server.message("FP32", values=[[float(s), float(n)]], outputs=["twice"])
                      for n in range(30)]),
                metadata=server.metadata, timeout=30,
            )
            for s in range(6)
        ]  # fmt: skip
        for s, call in enumerate(calls):
            assert [values(a) for a in call] == [[2.0 * s, 2.0 * n] for n in range(30)]
