"""What the protocol tells beside inference: health, metadata, readiness, the repository."""

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from conformance.bodies import DATATYPES

pytestmark = [pytest.mark.platform]
feature = pytest.mark.feature
REST = pytest.mark.door("REST, JSON")
GRPC = pytest.mark.door("gRPC")


@REST
@feature("health")
@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_over_http(server, path):
    assert server.http.get(path).status_code == 200


@GRPC
@feature("health")
@pytest.mark.parametrize("name", ["Live", "Ready"])
def test_health_over_grpc(server, name):
    with server.stub() as stub:
        answer = getattr(stub, f"Server{name}")(getattr(pb, f"Server{name}Request")())
    assert getattr(answer, name.lower())


@REST
@feature("server metadata")
def test_server_metadata_over_http(server):
    found = server.http.get("/v2").json()
    assert found["name"]
    assert found["version"]
    assert isinstance(found["extensions"], list)


@REST
@feature("server metadata")
def test_an_extension_that_works_is_named(server):
    assert "binary_tensor_data" in server.http.get("/v2").json()["extensions"]


@GRPC
@feature("server metadata")
def test_server_metadata_over_grpc(server):
    with server.stub() as stub:
        found = stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=server.metadata)
    assert found.name
    assert found.version


@REST
@feature("model metadata")
def test_model_metadata_over_http(server):
    found = server.http.get(f"/v2/models/{server.model}").json()
    assert found["name"] == server.model
    assert found["platform"]
    known = {entry["name"]: entry for entry in found["inputs"]}
    for datatype in DATATYPES:
        entry = known[f"x_{datatype.lower()}"]
        assert (entry["datatype"], entry["shape"]) == (datatype, [-1, -1])


@GRPC
@feature("model metadata")
def test_model_metadata_over_grpc(server):
    with server.stub() as stub:
        found = stub.ModelMetadata(
            pb.ModelMetadataRequest(name=server.model), metadata=server.metadata
        )
    assert found.name == server.model
    known = {entry.name: (entry.datatype, list(entry.shape)) for entry in found.inputs}
    assert known == {f"x_{name.lower()}": (name, [-1, -1]) for name in DATATYPES}


@REST
@feature("model readiness")
def test_model_readiness_over_http(server):
    assert server.http.get(f"/v2/models/{server.model}/ready").status_code == 200


@GRPC
@feature("model readiness")
def test_model_readiness_over_grpc(server):
    with server.stub() as stub:
        request = pb.ModelReadyRequest(name=server.model)
        assert stub.ModelReady(request, metadata=server.metadata).ready


@REST
@feature("unknown models and versions")
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/models/no-such-thing"), ("POST", "/v2/models/no-such-thing/infer"),
     ("GET", "/v2/models/{model}/versions/99"), ("POST", "/v2/models/{model}/versions/99/infer"),
     ("GET", "/v2/nowhere"), ("POST", "/v2/models/{model}/guess")],
)  # fmt: skip
def test_what_is_not_there_is_404_over_http(server, method, path):
    body = b'{"inputs":[]}' if method == "POST" else None
    answer = server.http.request(method, path.format(model=server.model), content=body)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


@GRPC
@feature("unknown models and versions")
@pytest.mark.parametrize(("name", "version"), [("no-such-thing", ""), (None, "99")])
def test_what_is_not_there_is_not_found_over_grpc(server, name, version):
    with server.stub() as stub, pytest.raises(grpc.RpcError) as refused:
        request = pb.ModelMetadataRequest(name=name or server.model, version=version)
        stub.ModelMetadata(request, metadata=server.metadata)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert refused.value.details()


@REST
@feature("repository index")
def test_the_repository_index_over_http(server):
    answer = server.http.post("/v2/repository/index", content=b"{}")
    (found,) = [entry for entry in answer.json() if entry["name"] == server.model]
    assert found["state"] == "READY"


@GRPC
@feature("repository index")
def test_the_repository_index_over_grpc(server):
    with server.stub() as stub:
        answer = stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=server.metadata)
    (found,) = [entry for entry in answer.models if entry.name == server.model]
    assert found.state == "READY"


@pytest.mark.ours
@feature("repository index")
@GRPC
def test_the_repository_index_is_not_for_strangers(server):
    with server.stub() as stub, pytest.raises(grpc.RpcError) as refused:
        stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.ours
@feature("versions and aliases")
@pytest.mark.parametrize("place", ["{model}@{version}", "{model}/versions/{version}"])
@pytest.mark.parametrize("end", ["", "/ready"])
@REST
def test_a_version_may_be_named(server, place, end):
    path = f"/v2/models/{place.format(model=server.model, version=server.version)}{end}"
    assert server.http.get(path).status_code == 200


@pytest.mark.ours
@feature("versions and aliases")
@REST
def test_an_alias_that_nobody_moved_is_not_found(server):
    answer = server.http.get(f"/v2/models/{server.model}@nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "version_not_found")
