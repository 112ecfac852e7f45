"""How to call an algorithm, as text to copy: each snippet runs as it stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

LONG = 900
"""A body longer than this is read from a file instead of filling the page."""
FILES = {"image": "picture.jpg", "audio": "recording.wav"}
ARRAYS = {
    "image": 'np.array([open("picture.jpg", "rb").read()], dtype=object)',
    "sample_rate": "np.array([rate], dtype=np.int32)",
    "audio": "audio[None]",
}


@dataclass(frozen=True)
class Example:
    """What a snippet needs to know of an algorithm."""

    name: str
    media: str
    body: dict[str, Any]
    signature: dict[str, Any]
    url: str
    purpose: str = ""
    """Said with the call; empty: the only one of the key."""
    key: str = "key"
    """What stands for the key in Python."""

    @property
    def item(self) -> dict[str, Any]:
        """The first item."""
        found: dict[str, Any] = self.body["inputs"][0]
        return found

    @property
    def json(self) -> str:
        """The body on one line."""
        return json.dumps(self.body, ensure_ascii=False)


def curl(example: Example) -> str:
    """The task API from a shell."""
    head = (
        f"curl {example.url}/v1/algorithms/{example.name}/predict \\\n"
        '  -H "Authorization: Bearer $CITYBRAIN_KEY" \\\n'
    )
    if example.purpose:
        head += f'  -H "X-Purpose: {example.purpose}" \\\n'
    if example.media:
        return f"{head}  -F file=@{FILES[example.media]}"
    head += '  -H "Content-Type: application/json" \\\n'
    if len(example.json) > LONG:
        return f"{head}  -d @{example.name}-example.json"
    quoted = example.json.replace("'", "'\\''")
    return f"{head}  -d '{quoted}'"


def python_client(example: Example) -> str:
    """The platform's own Python client."""
    lines = ["import os"] if "os." in example.key else []
    lines += ["from pathlib import Path"] if example.media else []
    lines += [""] if lines else []
    purpose = f', purpose="{example.purpose}"' if example.purpose else ""
    lines += [
        "from citybrain.sdk import CityBrain",
        "",
        f'with CityBrain("{example.url}", {example.key}) as city:',
    ]
    if example.media:
        call = f'city.predict_files("{example.name}", [Path("{FILES[example.media]}")]{purpose})'
    elif len(example.json) > LONG:
        lines = ["import json", "from pathlib import Path", "", *lines]
        lines.append(f'    body = json.loads(Path("{example.name}-example.json").read_text())')
        call = f'city.predict("{example.name}", body["inputs"]{purpose})'
    else:
        call = f'city.predict("{example.name}", {example.body["inputs"]!r}{purpose})'
    return "\n".join([*lines, f"    answer = {call}", 'print(answer["results"])'])


def tritonclient(example: Example) -> str:
    """Any Open Inference Protocol client, here NVIDIA's."""
    host = example.url.partition("://")[2]
    secure = ", ssl=True" if example.url.startswith("https") else ""
    inputs = [spec for spec in example.signature["inputs"] if _needed(spec, example)]
    lines = ["import numpy as np", "import tritonclient.http as triton"]
    if example.media == "audio":
        lines += [
            "import soundfile", "",
            'audio, rate = soundfile.read("recording.wav", dtype="float32")',
        ]  # fmt: skip
    if "series" in example.item:
        lines += ["import json", "", f'body = json.load(open("{example.name}-example.json"))']
    lines += ["", f'client = triton.InferenceServerClient("{host}"{secure})', "inputs = []"]
    lines += ["for name, dtype, array in ["]
    for spec in inputs:
        lines.append(f'    ("{spec["name"]}", "{spec["datatype"]}", {_array(spec, example)}),')
    lines += [
        "]:",
        "    tensor = triton.InferInput(name, array.shape, dtype)",
        "    tensor.set_data_from_numpy(array)",
        "    inputs.append(tensor)",
        'headers = {"Authorization": f"Bearer {key}"}',
        f'answer = client.infer("{example.name}", inputs, headers=headers)',
    ]
    lines += [f'print(answer.as_numpy("{s["name"]}"))' for s in example.signature["outputs"]]
    return "\n".join(lines)


def _needed(spec: dict[str, Any], example: Example) -> bool:
    """Whether a minimal call sends this tensor: one from the example, or a recording's."""
    named = example.item.get("tensors", example.item)
    if (
        spec["name"] == "last_time"
    ):  # optional; the protocol counts seconds where people write dates
        return False
    return spec["name"] in named or spec["name"] in ("audio", "sample_rate", "features")


def _array(spec: dict[str, Any], example: Example) -> str:
    name, item = spec["name"], example.item
    if example.media:
        return ARRAYS[name]
    if name == "text":
        return f"np.array([{item['text']!r}.encode()], dtype=object)"
    if name == "series":
        return 'np.array([body["inputs"][0]["series"]], dtype=np.float32)'
    if name == "features":
        return f"np.array([{list(item['features'].values())}], dtype=np.float32)"
    value = item.get("tensors", item)[name]
    if spec["datatype"] == "BYTES":
        return f"np.array([{value!r}], dtype=object)"
    if spec["datatype"] == "BF16":  # a name that numpy knows once tritonclient is imported
        return f'np.array([{value!r}], dtype="bfloat16")'
    kind = spec["datatype"].lower().replace("fp", "float")
    return f"np.array([{value!r}], dtype=np.{kind}{'_' if kind == 'bool' else ''})"
