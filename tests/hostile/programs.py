"""M1 and M2: torch.export programs and skops files that ask for more than numbers."""

import json
import zipfile

from hostile.case import add, zip_of
from hostile.opcodes import call, whole

META = {
    "dtype": 7, "sizes": [{"as_int": 2}], "requires_grad": True,
    "device": {"type": "cpu", "index": None}, "strides": [{"as_int": 1}],
    "storage_offset": {"as_int": 0}, "layout": 7,
}  # fmt: skip


def weights(path="weight_0", use_pickle=False, meta=META):
    entry = {"path_name": path, "is_param": True, "use_pickle": use_pickle, "tensor_meta": meta}
    return json.dumps({"config": {"l.bias": entry}})


def graph(target="torch.ops.aten.relu.default", size=None, **more):
    node = {
        "target": target, "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}],
        "outputs": [{"as_tensor": {"name": "y"}}], "metadata": {},
        "is_hop_single_tensor_return": None, "name": "y",
    }  # fmt: skip
    values = {"x": {**META, "sizes": [size or {"as_int": 2}]}, "y": META}
    inside = {
        "inputs": [{"as_tensor": {"name": "x"}}], "outputs": [{"as_tensor": {"name": "y"}}],
        "nodes": [node], "tensor_values": values, "sym_int_values": {}, "sym_bool_values": {},
        "sym_float_values": {}, "custom_obj_values": {}, "is_single_tensor_return": False,
    }  # fmt: skip
    signature = {
        "input_specs": [{"user_input": {"arg": {"as_tensor": {"name": "x"}}}}],
        "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "y"}}}}],
    }
    module = {"graph": inside, "signature": signature, "module_call_graph": [], "metadata": {}}
    return json.dumps({
        "graph_module": module, "opset_version": {"aten": 10}, "range_constraints": {},
        "schema_version": {"major": 8, "minor": 8}, "verifiers": ["TRAINING"],
        "torch_version": "2.15.0", **more,
    })  # fmt: skip


def program(changes=(), more=(), method=zipfile.ZIP_STORED):
    """A maker of what torch.export.save writes, with some records changed and some added."""

    def make(folder, shot):
        files = {
            "m/archive_format": "pt2", "m/archive_version": "0", "m/byteorder": "little",
            "m/.data/version": "3\n", "m/models/model.json": graph(),
            "m/data/weights/weight_0": b"\0" * 8,
            "m/data/weights/model_weights_config.json": weights(),
            "m/data/constants/model_constants_config.json": '{"config": {}}',
            "m/data/sample_inputs/model.pt": _zipped(whole(b"}")),
        }  # fmt: skip
        for name, data in dict(changes).items():
            files[name] = data(shot) if callable(data) else data
        extra = [(name, data(shot) if callable(data) else data) for name, data in more]
        return zip_of(folder / "model.pt2", [*files.items(), *extra], method)

    return make


def _zipped(data):
    import io

    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return kept.getvalue()


def payload(shot):
    return whole(call("os:system", shot.shell))


def pt2(name, make, says=r"model\.pt2|\.json|evaluated"):
    add("pt2", name, make, says)


for record in ("m/data/weights/x.pkl", "m/extra/run.py", "m/data/aotinductor/model/x.so", "m/x.so",
               "m/data/constants/custom_obj_0", "m/data/constants/opaque_obj_0", "../weight_0",
               "m/data/weights/../../x", "/etc/passwd", "m/data/xl_model_weights/weight_0",
               "m/executorch/x.pte", "m/models/../x.json"):  # fmt: skip
    pt2(f"record-{record.strip('/.').replace('/', '-')}", program(more=[(record, payload)]),
        r"model\.pt2 holds")  # fmt: skip
CONFIG = "m/data/weights/model_weights_config.json"
pt2("weights-by-pickle", program({CONFIG: weights(use_pickle=True), "m/data/weights/weight_0": payload}),
    "unpickle")  # fmt: skip
pt2("weights-by-pickle-as-number", program({CONFIG: weights(use_pickle=1)}), "unpickle")
pt2("weights-by-pickle-as-text", program({CONFIG: weights(use_pickle="yes")}), "unpickle")
pt2("constants-by-pickle", program({"m/data/constants/model_constants_config.json":
    weights(path="tensor_0", use_pickle=True), "m/data/constants/tensor_0": payload}), "unpickle")  # fmt: skip
for path in (
    "../../etc/passwd",
    "/etc/passwd",
    "../weights/weight_0",
    "weight_0/../x",
    "custom_obj_0",
):
    pt2(f"weights-at-{path.strip('/.').replace('/', '-').replace('.', '')}-{len(path)}",
        program({CONFIG: weights(path=path)}), "config.json")  # fmt: skip
pt2("sample-inputs-payload", program({"m/data/sample_inputs/model.pt": lambda s: _zipped(payload(s))}),
    "sample_inputs|import")  # fmt: skip
pt2(
    "sample-inputs-bare-pickle",
    program({"m/data/sample_inputs/model.pt": payload}),
    "sample_inputs",
)
pt2("sample-inputs-second", program(more=[("m/data/sample_inputs/other.pt", lambda s: _zipped(payload(s)))]),
    "sample_inputs|import")  # fmt: skip
pt2("same-record-twice", program(more=[("m/models/model.json", graph("torch.os.system"))]),
    r"twice|model\.json")  # fmt: skip
pt2("compressed-bomb", program({"m/models/model.json": b'{"a":"' + b" " * (50 << 20) + b'"}'},
                               method=zipfile.ZIP_DEFLATED), r"compress|larger|times")  # fmt: skip
pt2("json-depth", program({"m/models/model.json": b"[" * 500_000}))
pt2("json-junk", program({"m/models/model.json": b"\xff\xfe{"}))
pt2("json-long-number", program({"m/models/model.json": b'{"a":' + b"9" * 100_000 + b"}"}))
pt2("no-model", program({"m/models/model.json": b"{}"}), "not a program")

EXPRESSIONS = {
    "import": lambda s: f"__import__('os').system({s.shell!r})",
    "lambda": lambda s: f"(lambda: {s.python})()",
    "list": lambda s: s.python,
    "attributes": lambda s: "Symbol('a').__class__.__mro__[1].__subclasses__()",
    "globals": lambda s: "Symbol.__init__.__globals__['os'].system('x')",
    "eval": lambda s: f"eval({s.python!r})",
    "nested-sympify": lambda s: f"sympify({s.python!r})",
    "name-in-a-symbol": lambda s: f"Symbol({s.python!r})",
    "format": lambda s: "'{0.__class__}'.format(1)",
    "walrus": lambda s: f"(x := {s.python})",
    "power": lambda s: "9**9**9**9",
    "power-by-name": lambda s: "Pow(9, Pow(9, Pow(9, 9)))",
    "factorial": lambda s: "factorial(10**9)",
    "shift": lambda s: "1 << 10000000000",
    "multiplied": lambda s: "*".join(["9" * 400] * 12),
    "long": lambda s: "+".join(["Symbol('a')"] * 2000),
    "deep": lambda s: "(" * 2000 + "1" + ")" * 2000,
    "unary": lambda s: "-" * 4000 + "1",
    "nul": lambda s: "1\0+1",
    "comprehension": lambda s: "[x for x in range(10**12)]",
    "string-tricks": lambda s: "Symbol('a'); import os",
    "unicode-name": lambda s: "ｅｖａｌ('1')",
    "keyword": lambda s: "Symbol('a', **{'x': 1})",
}  # fmt: skip
for key, expression in EXPRESSIONS.items():
    pt2(f"expression-{key}", program({"m/models/model.json": lambda s, e=expression: graph(
        size={"as_expr": {"expr_str": e(s), "hint": {"as_int": 2}}})}), "evaluated")  # fmt: skip
for target in ("torch.os.system", "torch.hub.load", "_operator.attrgetter", "_operator.methodcaller",
               "math.__loader__.load_module", "torch.ops.load_library", "torch.load", "os.system",
               "#x.y:os.system", "torch.ops.__class__", "torch.utils.cpp_extension.load",
               "builtins.eval", "torch.ops.aten.__getattr__", "torch._C._jit_pass_inline"):  # fmt: skip
    pt2(f"target-{target}", program({"m/models/model.json": graph(target)}), r"model\.json")


def node(loader, module, name, **more):
    return {"__loader__": loader, "__module__": module, "__class__": name, "__id__": 1, **more}


ONE = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": '"x"',
       "is_json": True, "__id__": 7}  # fmt: skip
LIST = node("ListNode", "builtins", "list", content=[ONE])
DICT = node("DictNode", "builtins", "dict", content={}, key_types=LIST)


def skops(name, schema, says=r"model\.skops", more=()):
    def make(folder, shot):
        found = schema(shot) if callable(schema) else schema
        if isinstance(found, dict):
            found = json.dumps({**found, "protocol": 2, "_skops_version": "0.16.0"})
        return zip_of(folder / "model.skops", [("schema.json", found), *more], zipfile.ZIP_DEFLATED)

    add("skops", name, make, says)


for module, name in (("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"),
                     ("builtins", "getattr"), ("subprocess", "Popen"), ("numpy.testing", "rundocs"),
                     ("numpy.testing._private.utils", "runstring"), ("numpy", "load"),
                     ("numpy.f2py", "compile"), ("scipy._lib._ccallback", "LowLevelCallable"),
                     ("sklearn.utils", "estimator_html_repr"), ("sklearn.datasets", "fetch_openml"),
                     ("sklearn.externals._packaging.version", "_parse_letter_version"),
                     ("sklearn.utils.fixes", "_smallest_admissible_index_dtype"),
                     ("joblib", "load"), ("pickle", "loads"), ("sklearn.os", "system"),
                     ("sklearn.utils._testing", "joblib.load"), ("functools", "partial"),
                     ("operator", "attrgetter"), ("operator", "methodcaller"), ("importlib", "import_module")):  # fmt: skip
    skops(f"function-{module}-{name}", node("FunctionNode", module, name,
          content={"module_path": module, "function": name}))  # fmt: skip
    skops(f"object-{module}-{name}", node("ObjectNode", module, name, content=DICT))
for loader in ("OperatorFuncNode", "MethodNode", "PartialNode", "ConstructorFromReduceNode",
               "TypeNode", "ReduceNode", "LossNode", "TreeNode", "SparseMatrixNode", "NdArrayNode",
               "NoSuchNode", "__class__", "CachedNode"):  # fmt: skip
    skops(f"loader-{loader}", lambda s, x=loader: node(
        x, "operator", "methodcaller", attrs=LIST, content=LIST, func=LIST, args=LIST, file="a.npy",
        kwds=DICT, namespace=DICT, type="numpy", constructor=LIST))  # fmt: skip
skops("method-of-an-estimator", node("MethodNode", "sklearn.linear_model._base", "LinearRegression",
      content={"func": "fit", "obj": node("ObjectNode", "os", "system", content=DICT)}))  # fmt: skip
skops("function-as-another-class", node("FunctionNode", "sklearn.linear_model._base", "LinearRegression",
      content={"module_path": "os", "function": "system"}))  # fmt: skip
skops("json-depth", b'{"content":' * 100_000 + b"1" + b"}" * 100_000)
skops("json-depth-of-nodes", lambda s: deep_nodes(900))
skops("json-junk", b"{")
skops("json-list", b"[]")
skops("json-long-number", b'{"a":' + b"9" * 100_000 + b"}")
skops("schema-bomb", b'{"a":"' + b" " * (50 << 20) + b'"}', "archive|skops")
skops("schema-twice", LIST, "twice|skops", [("schema.json", json.dumps(DICT))])
skops("path-of-an-array", node("NdArrayNode", "numpy", "ndarray", type="numpy", file="../../x.npy"))
skops("new-protocol", lambda s: json.dumps({**LIST, "protocol": 10**30, "_skops_version": "9"}))
add("skops", "no-schema", lambda f, s: zip_of(f / "model.skops", [("x", b"")]), r"model\.skops")


def deep_nodes(depth):
    found = json.dumps(LIST)
    for _ in range(depth):
        found = (
            json.dumps({**LIST, "content": []})[:-1].replace(
                '"content": []', f'"content": [{found}]'
            )
            + "}"
        )
    return found
