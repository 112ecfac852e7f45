"""M2: MLflow folders and transformers folders that ask for code."""

import json
import os

from hostile.case import add, folder_of
from hostile.opcodes import call, whole


def payload(shot):
    return whole(call("os:system", shot.shell))


def code(shot):
    return f"{shot.python}\n".encode()


def mlflow(name, flavors, says, files=(), **card):
    text = flavors if isinstance(flavors, str) else json.dumps({"flavors": flavors})
    add("mlflow", name, folder_of({"MLmodel": text, **dict(files)}), says, **card)


PYFUNC = {"python_function": {"loader_module": "evil", "code": "code", "data": "data"}}
mlflow("loader-module-and-code", PYFUNC, "evil|code", {"code/evil.py": code})
mlflow("loader-module-beside-onnx", {**PYFUNC, "onnx": {"data": "model.onnx"}}, "evil|code",
       {"code/evil.py": code, "model.onnx": b""})  # fmt: skip
mlflow(
    "loader-module-of-mlflow",
    {"python_function": {"loader_module": "mlflow.pyfunc.model"}},
    "mlflow.pyfunc",
)
mlflow(
    "loader-module-dotted",
    {"python_function": {"loader_module": "mlflow.onnx.os"}},
    "mlflow.onnx.os",
)
mlflow("code-of-a-wrapper", {"python_function": {"loader_module": "mlflow.onnx", "code": "code"},
       "onnx": {"data": "model.onnx"}}, "code", {"code/onnx.py": code, "model.onnx": b""})  # fmt: skip
mlflow("model-code-path", {"python_function": {"loader_module": "mlflow.onnx", "model_code_path": "x.py"},
       "onnx": {"data": "model.onnx"}}, "code|model.onnx", {"x.py": code, "model.onnx": b""})  # fmt: skip
SK = {"serialization_format": "cloudpickle"}
mlflow(
    "pickled-model",
    {"sklearn": {"pickled_model": "model.pkl", **SK}},
    "pickle",
    {"model.pkl": payload},
)
for place in ("../x", "/etc/passwd", "a/../../x", "..", "\\x", "x\0y", "", "./model.skops"):
    mlflow(f"pickled-model-at-{place.strip('/.').replace('/', '-') or len(place)}".replace("\0", "0"),
           {"sklearn": {"pickled_model": place, "serialization_format": "skops"}}, "path|beside")  # fmt: skip
mlflow("pickle-called-skops", {"sklearn": {"pickled_model": "m.skops", "serialization_format": "skops"}},
       r"m\.skops", {"m.skops": payload})  # fmt: skip
mlflow("skops-with-trusted-types", {"sklearn": {
    "pickled_model": "m.skops", "serialization_format": "skops",
    "skops_trusted_types": ["os.system", "builtins.eval"]}}, r"m\.skops",
    {"m.skops": lambda s: skops_of("os", "system")})  # fmt: skip
mlflow("pickle-module-info", {"pytorch": {"model_data": "data"}}, "pickle",
       {"data/pickle_module_info.txt": "evil", "data/model.pth": payload, "code/evil.py": code})  # fmt: skip
mlflow("pickle-module-info-beside-pt2", {"pytorch": {"model_data": "data"}}, r"pt2|pickle",
       {"data/pickle_module_info.txt": "evil", "data/model.pt2": payload})  # fmt: skip
mlflow("torch-data-outside", {"pytorch": {"model_data": "../.."}}, "path")
mlflow(
    "torch-state-dict",
    {"pytorch": {"model_data": "data"}},
    "pickle",
    {"data/state_dict.pth": payload},
)
mlflow(
    "keras-module", {"keras": {"keras_module": "evil", "data": "data"}}, "keras", {"evil.py": code}
)
mlflow("tensorflow", {"tensorflow": {"saved_model_dir": "x"}}, "tensorflow")
mlflow("spark", {"spark": {"model_data": "x"}}, "spark")
mlflow("crate", {"crate": {"version": "1"}}, "crate")
mlflow("langchain", {"langchain": {"model_code_path": "chain.py"}}, "langchain", {"chain.py": code})
mlflow("xgboost-pickle", {"xgboost": {"data": "model.pkl"}}, "xgboost", {"model.pkl": payload})
mlflow("no-flavors", {}, "flavors")
mlflow("flavors-a-list", '{"flavors": []}', "MLmodel")
mlflow("flavor-a-list", {"onnx": []}, "flavors")
mlflow("onnx-data-a-list", {"onnx": {"data": ["model.onnx"]}}, "MLmodel")
mlflow("yaml-tag-new", 'flavors: !!python/object/apply:os.system ["touch x"]', "MLmodel")
mlflow("yaml-tag-name", "flavors: !!python/name:os.system", "MLmodel")
mlflow("yaml-tag-module", "flavors: !!python/module:os", "MLmodel")
mlflow("yaml-tag-object", "flavors: !!python/object:subprocess.Popen {args: x}", "MLmodel")
mlflow("yaml-tag-new-object", "flavors: !!python/object/new:os.system [x]", "MLmodel")
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
mlflow("yaml-bomb", LAUGHS + "flavors: {python_function: {loader_module: *a11}}", "MLmodel")
mlflow("yaml-bomb-as-code", LAUGHS + "flavors: {onnx: {code: *a11, data: *a11}}", "MLmodel")
mlflow(
    "yaml-bomb-of-itself", "flavors: &a {onnx: *a, python_function: {loader_module: *a}}", "MLmodel"
)
mlflow("yaml-deep", "flavors: " + "[" * 50_000, "MLmodel")
mlflow("yaml-deep-blocks", "\n".join(" " * i + "- " * 1 for i in range(1200)), "MLmodel")
mlflow("yaml-large", "flavors: {" + "a: b, " * 160_000 + "}", "MLmodel")
mlflow("yaml-huge", "flavors: {}\n#" + "x" * 20_000_000, "MLmodel")
mlflow("yaml-not-text", "flavors: \0", "MLmodel")
mlflow("yaml-long-number", "flavors: " + "9" * 100_000, "MLmodel")
mlflow("yaml-two-documents", "flavors: {}\n---\nflavors: {}", "MLmodel")
mlflow("yaml-odd-key", "? [a, b]\n: c\nflavors: {}", "MLmodel")


def skops_of(module, name):
    import io
    import zipfile

    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:
        archive.writestr("schema.json", json.dumps({
            "__loader__": "FunctionNode", "__module__": module, "__class__": name, "__id__": 1,
            "content": {"module_path": module, "function": name}, "protocol": 2, "_skops_version": "0.16",
        }))  # fmt: skip
    return kept.getvalue()


def linked(name):
    def make(folder, shot):
        root = folder_of({"MLmodel": '{"flavors": {"onnx": {"data": "model.onnx"}}}'})(folder, shot)
        (folder / "secret").write_bytes(b"x")
        if name == "model":
            (root / "model.onnx").symlink_to(folder / "secret")
        elif name == "hard":
            os.link(folder / "secret", root / "model.onnx")
        elif name == "MLmodel":
            (root / "MLmodel").rename(folder / "other")
            (root / "MLmodel").symlink_to(folder / "other")
        else:
            (root / "data").symlink_to("/etc")
        return root

    return make


for kind, says in (
    ("model", "model.onnx"),
    ("hard", "model.onnx"),
    ("MLmodel", "MLmodel"),
    ("folder", "data"),
):
    add("mlflow", f"link-{kind}", linked(kind), says)

WEIGHTS = (
    b"\x48\0\0\0\0\0\0\0"
    + json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode().ljust(72)
    + b"\0" * 16
)
BERT = {
    "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 8,
    "id2label": {"0": "a", "1": "b"},
}  # fmt: skip


def transformers(name, config=(), files=(), says="config", **card):
    found = {
        "config.json": json.dumps({**BERT, **dict(config)})
        if not isinstance(config, bytes)
        else config
    }
    found = {**found, "model.safetensors": WEIGHTS, "tokenizer.json": "{}", **dict(files)}
    add(
        "transformers",
        name,
        folder_of({k: v for k, v in found.items() if v is not None}),
        says,
        **card,
    )


AUTO = {"auto_map": {"AutoModelForSequenceClassification": "evil.Evil"}}
transformers("auto-map", AUTO, {"evil.py": code})
transformers("auto-map-nested", {"text_config": {"inner": [AUTO]}}, {"evil.py": code})
transformers(
    "auto-map-in-tokenizer", (), {"tokenizer_config.json": json.dumps(AUTO), "evil.py": code}
)
transformers("auto-map-in-processor", (), {"preprocessor_config.json": json.dumps(AUTO)})
transformers("auto-map-in-generation", (), {"generation_config.json": json.dumps(AUTO)})
transformers("auto-map-elsewhere", AUTO | {"auto_map": {"AutoConfig": "someone/else--evil.Evil"}})
transformers("remote-code", {"trust_remote_code": True})
transformers("kernels", {"use_kernels": True})
transformers("kernel-config", {"kernel_config": {"x": "someone/kernel"}})
transformers("attention-kernel", {"attn_implementation": "someone/kernel"})
transformers("attention-kernel-hidden", {"_attn_implementation": "someone/kernel:layer"})
transformers("attention-kernel-internal", {"_attn_implementation_internal": "someone/kernel"})
transformers(
    "attention-kernel-nested", {"vision_config": {"_attn_implementation": "someone/kernel"}}
)
transformers("experts-kernel", {"experts_implementation": "someone/kernel"})
transformers("quantised", {"quantization_config": {"quant_method": "evil"}})
transformers("base-model-elsewhere", {"base_model_name_or_path": "someone/else"},
             {"adapter_config.json": json.dumps({"base_model_name_or_path": "someone/else"}),
              "adapter_model.safetensors": WEIGHTS}, says="adapter")  # fmt: skip
transformers("pickle-beside", (), {"pytorch_model.bin": payload}, says=r"pytorch_model\.bin")
transformers("pickle-below", (), {"deep/rng_state.pth": payload}, says=r"rng_state\.pth")
transformers("training-args", (), {"training_args.bin": payload}, says=r"training_args\.bin")
transformers("weights-are-a-pickle", (), {"model.safetensors": payload}, says=r"model\.safetensors")
transformers("weights-lie", (), {"model.safetensors": b"\xff" * 100}, says=r"model\.safetensors")
transformers("no-weights", (), {"model.safetensors": None}, says=r"model\.safetensors")
transformers("no-architecture", {"architectures": []}, says="architecture")
transformers("architectures-a-number", {"architectures": 7}, says="config")
transformers("labels-a-list", {"id2label": ["a", "b"]}, says="config")
transformers("labels-not-numbers", {"id2label": {"x": "a"}}, says="config")
transformers("layers-10-9", {"num_hidden_layers": 10**9})
transformers("width-10-9", {"hidden_size": 10**9})
transformers("words-10-12", {"vocab_size": 10**12})
transformers("width-of-text", {"hidden_size": "eight"})
transformers("json-depth", b"[" * 300_000)
transformers("json-depth-of-objects", b'{"a":' * 300_000)
transformers("json-not-text", b"\xff\xfe")
transformers("json-a-list", b"[]")
MODEL = {"transformers": {"model_binary": "model", "task": "text-classification"}}
INSIDE = {"model/model.safetensors": WEIGHTS, "model/tokenizer.json": "{}"}
mlflow("transformers-auto-map", MODEL, "config",
       {**INSIDE, "model/config.json": json.dumps({**BERT, **AUTO}), "model/evil.py": code})  # fmt: skip
mlflow("transformers-auto-map-of-its-tokenizer", MODEL, "config",
       {**INSIDE, "model/config.json": json.dumps(BERT),
        "components/tokenizer/tokenizer_config.json": json.dumps(AUTO)})  # fmt: skip
mlflow("transformers-outside", {"transformers": {"model_binary": "../model"}}, "path")
mlflow("transformers-unknown-pipeline", {"transformers": {
    "model_binary": "model", "pipeline_model_type": "os.system", "task": "evil"}}, "config|evil|pipeline",
    {**INSIDE, "model/config.json": json.dumps({**BERT, "architectures": ["X"]})})  # fmt: skip
mlflow("transformers-unknown-pipeline-of-a-known-model", {"transformers": {
    "model_binary": "model", "pipeline_model_type": "os.system"}}, "pipeline_model_type",
    {**INSIDE, "model/config.json": json.dumps(BERT)})  # fmt: skip
mlflow("transformers-peft", {"transformers": {"model_binary": "model", "peft_adaptor": "peft"}},
       "adapter|peft", {**INSIDE, "model/config.json": json.dumps(BERT),
                        "peft/adapter_config.json": "{}"})  # fmt: skip
mlflow(
    "transformers-remote",
    {"transformers": {"source_model_name": "someone/else", "task": "x"}},
    "model",
)
