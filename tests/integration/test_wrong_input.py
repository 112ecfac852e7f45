"""Wrong input on every path gets its documented error: status, code, no trace, nothing half done."""

import json

import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.platform
NAME = "crowd-level"
INFER = f"/v2/models/{NAME}/infer"
PREDICT = f"/v1/algorithms/{NAME}/predict"
VALUES = [1.0] * 11


def tensor(**changes):
    found = {"name": "features", "datatype": "FP32", "shape": [1, 11], "data": VALUES} | changes
    return json.dumps({"inputs": [{k: v for k, v in found.items() if v is not None}]}).encode()


def item(value='"x"', name="hour"):
    """A task body with one feature replaced by raw text."""
    names = (
        "hour month weekend holiday rain_mm temperature capacity inside_share arrived_share "
        "arrived_before_share left_share"
    ).split()
    fields = ",".join(f'"{n}":{value if n == name else 1}' for n in names)
    return f'{{"inputs":[{{"features":{{{fields}}}}}]}}'.encode(errors="surrogatepass")


JSON = {"content-type": "application/json"}
OIP = [
    ("empty body", b"", 400, "bad_json"),
    ("not JSON", b"{", 400, "bad_json"),
    ("a list", b"[]", 400, "bad_json"),
    ("no inputs", b"{}", 400, "bad_json"),
    ("inputs is a number", b'{"inputs":1}', 400, "bad_json"),
    ("inputs is empty", b'{"inputs":[]}', 422, "bad_tensor"),
    ("input is a string", b'{"inputs":["x"]}', 400, "bad_json"),
    ("unknown tensor", tensor(name="pixels"), 422, "bad_tensor"),
    ("unknown datatype", tensor(datatype="FP33"), 422, "bad_tensor"),
    ("wrong datatype", tensor(datatype="INT64", data=[1] * 11), 422, "bad_tensor"),
    ("datatype is a number", tensor(datatype=5), 400, "bad_json"),
    ("no datatype", tensor(datatype=None), 400, "bad_json"),
    ("no shape", tensor(shape=None), 400, "bad_json"),
    ("no data", tensor(data=None), 422, "bad_tensor"),
    ("too few values", tensor(data=[1.0]), 422, "bad_tensor"),
    ("too many values", tensor(data=[1.0] * 12), 422, "bad_tensor"),
    ("wrong width", tensor(shape=[1, 10], data=[1.0] * 10), 422, "bad_tensor"),
    ("wrong rank", tensor(shape=[11]), 422, "bad_tensor"),
    ("no rows", tensor(shape=[0, 11], data=[]), 422, "bad_tensor"),
    ("negative size", tensor(shape=[-1, 11]), 422, "bad_tensor"),
    ("absurd size", tensor(shape=[2**40, 2**40]), 422, "bad_tensor"),
    ("shape of floats", tensor(shape=[1.5, 11]), 400, "bad_json"),
    ("shape of strings", tensor(shape=["1", 11]), 400, "bad_json"),
    ("data of strings", tensor(data=["1"] * 11), 422, "bad_tensor"),
    ("data of nulls", tensor(data=[None] * 11), 422, "bad_tensor"),
    ("data is an object", tensor(data={"a": 1}), 422, "bad_tensor"),
    ("ragged data", tensor(data=[VALUES, [1.0]]), 422, "bad_tensor"),
    ("the same input twice", b'{"inputs":[%s,%s]}' % ((tensor()[12:-2],) * 2), 422, "bad_tensor"),
    ("NaN", tensor(data=[float("nan")] * 11), 400, "bad_json"),
    ("1e999", tensor().replace(b"[1.0,", b"[1e999,", 1), 422, "bad_tensor"),
    ("1e39 in FP32", tensor(data=[1e39] * 11), 422, "bad_tensor"),
    ("Infinity", tensor(data=[float("inf")] * 11), 400, "bad_json"),
    ("lone surrogate in a name", b'{"inputs":[{"name":"\\ud800"}]}', 400, "bad_json"),
    ("bad UTF-8", b'{"inputs":[{"name":"\xff\xfe"}]}', 400, "bad_json"),
    ("deep nesting", b"[" * 200_000, 400, "bad_json"),
    ("deep nesting in data", tensor(data=None)[:-3] + b',"data":' + b"[" * 5000 + b"}]}", 400,
     "bad_json"),
    ("a number of 20,000 digits", tensor().replace(b"1.0", b"9" * 20_000, 1), 422, "bad_tensor"),
    ("unknown output",
     tensor()[:-1] + b',"outputs":[{"name":"colour"}]}', 422, "bad_tensor"),
    ("too many rows", tensor(shape=[5000, 11], data=[0.0] * 55_000), 413, "too_large"),
]  # fmt: skip
TASK = [
    ("empty body", b"", JSON, 400, "bad_json"),
    ("no items", b'{"inputs":[]}', JSON, 400, "bad_json"),
    ("an unknown field", b'{"inputs":[],"colour":1}', JSON, 400, "bad_json"),
    ("a missing feature", b'{"inputs":[{"features":{"hour":1}}]}', JSON, 422, "bad_tensor"),
    ("an unknown feature", item(name="hour").replace(b"month", b"moon"), JSON, 400, "bad_json"),
    ("a string", item('"nine"'), JSON, 400, "bad_json"),
    ("null", item("null"), JSON, 400, "bad_json"),
    ("NaN", item("NaN"), JSON, 400, "bad_json"),
    ("1e999", item("1e999"), JSON, 400, "bad_json"),
    ("lone surrogate", b'{"inputs":[{"features":{"\\udfff":1}}]}', JSON, 400, "bad_json"),
    ("a picture", b"\x89PNG", {"content-type": "image/png"}, 422, "bad_media"),
    ("a form without a file", b"--x--\r\n",
     {"content-type": "multipart/form-data; boundary=x"}, 422, "bad_media"),
    ("a form without a boundary", b"x", {"content-type": "multipart/form-data"}, 400, "bad_json"),
    ("a torn form", b"--y\r\nfoo",
     {"content-type": "multipart/form-data; boundary=x"}, 400, "bad_json"),
    ("an unknown type", b"x", {"content-type": "text/weird"}, 422, "bad_media"),
    ("too many items", b'{"inputs":[' + b",".join([item("1")[11:-2]] * 4097) + b"]}", JSON, 413,
     "too_large"),
]  # fmt: skip
ROUTES = [
    ("GET", "/v1/nowhere", 404, "not_found"),
    ("GET", "/v2/nowhere", 404, "not_found"),
    ("POST", f"/v2/models/{NAME}/versions/99/infer", 404, "version_not_found"),
    ("POST", f"/v2/models/{NAME}/editions/1/infer", 404, "not_found"),
    ("POST", "/v2/models/UPPER/infer", 422, "invalid_input"),
    ("POST", "/v2/models/../../etc/passwd/infer", 404, "not_found"),
    ("POST", "/v2/models/%2e%2e%2fx/infer", 404, "not_found"),
    ("POST", f"/v2/models/{'a' * 5000}/infer", 404, "not_found"),
    ("POST", "/v2/models/no-such-thing/infer", 404, "algorithm_not_found"),
    ("GET", "/v2/models/no-such-thing", 404, "algorithm_not_found"),
    ("POST", f"/v1/algorithms/{NAME}@nobody/predict", 404, "version_not_found"),
    ("GET", "/api/v1/algorithms/no-such-thing", 404, "algorithm_not_found"),
    ("GET", "/api/v1/nowhere", 404, "not_found"),
    ("GET", "/api/v1/evaluations/none", 404, "row_not_found"),
    ("GET", "/api/v1/scenarios/none/league", 404, "scenario_not_found"),
    ("DELETE", "/api/v1/keys/none", 404, "row_not_found"),
    ("DELETE", "/api/v1/grants/none", 404, "row_not_found"),
    ("POST", "/api/v1/promotions/none/approve", 404, "row_not_found"),
    ("GET", "/v1/requests/none", 404, "row_not_found"),
]
CONTROL = [
    ("/api/v1/departments", b'{"name":"UPPER"}', 422, "invalid_input"),
    ("/api/v1/departments", b'{"name":"x1","colour":1}', 422, "invalid_input"),
    ("/api/v1/departments", b'{"name":NaN}', 400, "bad_json"),
    ("/api/v1/departments", b'{"name":"ok-name","title_zh":"\\ud800"}', 400, "bad_json"),
    ("/api/v1/departments", b'{"name":"platform"}', 409, "name_taken"),
    ("/api/v1/keys", b'{"department":"nobody"}', 404, "row_not_found"),
    ("/api/v1/keys", b'{"department":"platform","role":"king"}', 422, "invalid_input"),
    ("/api/v1/grants", b'{"department":"platform","algorithm":"none-such"}', 404,
     "algorithm_not_found"),
    ("/api/v1/scenarios/scenic-crowd/evaluations", b'{"algorithm":"none-such"}', 404,
     "algorithm_not_found"),
    (f"/api/v1/algorithms/{NAME}/promotions", b'{"version":-1}', 422, "invalid_input"),
    (f"/api/v1/algorithms/{NAME}/promotions", b'{"version":77}', 404, "version_not_found"),
    ("/v1/features/push", b'{"rows":[]}', 422, "invalid_input"),
    ("/v1/features/push",
     b'{"rows":[{"sensor":"s","values":[1e999],"last_time":"2026-01-01T00:00:00Z"}]}', 400,
     "bad_json"),
]  # fmt: skip


@pytest.fixture(scope="module")
def http(platform):
    headers = {"authorization": f"Bearer {platform.key}"}
    with httpx.Client(base_url=platform.url, headers=headers, timeout=60, trust_env=False) as found:
        yield found


def expect(answer, status, code):
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.text
    assert "Traceback" not in body
    assert "/site-packages/" not in body
    assert answer.json()["detail"]


@pytest.mark.parametrize(("body", "status", "code"), [c[1:] for c in OIP], ids=[c[0] for c in OIP])
def test_oip(http, body, status, code):
    answer = http.post(INFER, content=body)
    expect(answer, status, code)
    assert answer.json()["error"]  # what Open Inference clients read


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"), [c[1:] for c in TASK], ids=[c[0] for c in TASK]
)
def test_task_api(http, body, headers, status, code):
    expect(http.post(PREDICT, content=body, headers=headers), status, code)


@pytest.mark.parametrize(("method", "path", "status", "code"), ROUTES)
def test_routes(http, method, path, status, code):
    body = tensor() if "/v2/" in path else item("1") if "predict" in path else None
    expect(http.request(method, path, content=body), status, code)


def test_a_path_is_decoded_once_on_its_way(http):
    assert "'%41'" in http.get("/api/v1/algorithms/%2541").json()["detail"]


@pytest.mark.parametrize(("path", "body", "status", "code"), CONTROL)
def test_control(http, path, body, status, code):
    answer = http.post(path, content=body, headers=JSON)
    expect(answer, status, code)


@pytest.mark.parametrize("path", [INFER, PREDICT, "/api/v1/algorithms", "/v2/models/crowd-level",
                                  "/v2/repository/index", "/v1/features/online"])  # fmt: skip
@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "missing_key"), ("", "missing_key"), ("Basic abc", "missing_key"),
        ("Bearer", "missing_key"), ("Bearer wrong", "bad_key"),
        ("Bearer cb_emb_aaaaaaaaaa_" + "x" * 49, "bad_key"), ("Bearer \xff", "bad_key"),
    ],
)  # fmt: skip
def test_bad_keys(platform, path, authorization, code):
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    method = "GET" if path in ("/api/v1/algorithms", "/v2/models/crowd-level") else "POST"
    answer = httpx.request(
        method, platform.url + path, headers=headers, content=b"{}" if method == "POST" else None,
        trust_env=False,
    )  # fmt: skip
    expect(answer, 401, code)


BINARY = [
    ("header longer than the body", "99999", 400, "bad_json"),
    ("header is text", "abc", 400, "bad_json"),
    ("header is negative", "-4", 400, "bad_json"),
    ("header cuts the JSON", "10", 400, "bad_json"),
]


@pytest.mark.parametrize(("length", "status", "code"), [c[1:] for c in BINARY])
def test_binary_header_lies(http, length, status, code):
    answer = http.post(INFER, content=tensor(), headers={"inference-header-content-length": length})
    expect(answer, status, code)


@pytest.mark.parametrize("size", [0, 43, 45, -1, 2**40])
def test_binary_sizes_that_lie(http, size):
    head = tensor(data=None, parameters={"binary_data_size": size})
    answer = http.post(
        INFER, content=head + np.ones(11, np.float32).tobytes(),
        headers={"inference-header-content-length": str(len(head))},
    )  # fmt: skip
    expect(answer, 422, "bad_tensor")


def test_a_body_over_the_limit_is_refused_at_once(http):
    expect(http.post(INFER, content=b" " * (9 << 20)), 413, "too_large")


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(http):
    def chunks():
        for _ in range(12):
            yield b" " * (1 << 20)

    try:
        expect(http.post(INFER, content=chunks()), 413, "too_large")
    except httpx.WriteError:
        pass  # the server closed while we were still sending, which is as good
    assert http.get("/v2/health/live").status_code == 200


UPLOADS = [
    ({"algorithm.yaml": b"name: [", "model.onnx": b"x"}, "algorithm.yaml:"),
    ({"algorithm.yaml": b"- a list"}, "a mapping of fields was expected"),
    ({"algorithm.yaml": b"name: x1\ntask: tensor\n"}, "title: Field required"),
    ({"model.onnx": b"x"}, "owner and licence and domain are missing"),
    ({"../evil.yaml": b"x"}, "not a path inside the folder"),
    ({"/etc/evil": b"x"}, "not a path inside the folder"),
    ({"a\\b": b"x"}, "not a path inside the folder"),
    ({"algorithm.yaml": b"\xff\xfe"}, "not UTF-8"),
    ({"algorithm.yaml": b"a: &x 1\nb: *x\n"}, "algorithm.yaml:2: aliases"),
]


@pytest.mark.parametrize(("files", "says"), UPLOADS)
def test_broken_packages_name_the_file_and_the_line(http, files, says):
    before = http.get("/api/v1/algorithms").json()
    parts = [("files", (name, data)) for name, data in files.items()]
    answer = http.post("/api/v1/algorithms/broken-one/versions", files=parts)
    expect(answer, 422, "bad_package")
    assert says in answer.json()["detail"]
    assert http.get("/api/v1/algorithms").json() == before


def test_the_platform_still_answers_after_all_that(http):
    answer = http.post(PREDICT, content=item("1"), headers=JSON)
    assert answer.status_code == 200, answer.text
