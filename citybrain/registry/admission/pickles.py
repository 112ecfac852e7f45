"""Pickles are read here as text and never run; what counts is which names they would import.

The allow-list is the gate. It is a walk over the opcodes that knows only the ways of naming that
real checkpoints use; what it cannot follow it refuses. `picklescan` (a deny-list) is a tripwire
beside it, and its report is kept.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage

MAX_PICKLE = 64 << 20
TORCH = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state|qtensor)|"
    r"torch\.(Size|device|dtype|\w+Storage|storage\.(UntypedStorage|TypedStorage))|"
    r"torch\.(float|double|half|bfloat16|u?int(8|16|32|64)|bool)\d*|"
    r"torch\.serialization\._get_layout|collections\.OrderedDict|builtins\.(set|dict|list)|"
    r"__builtin__\.set|_codecs\.encode|torch\.nn\.parameter\.Parameter"
)
"""What a state dict of tensors needs, and nothing more."""
ULTRALYTICS = re.compile(
    r"ultralytics\.(nn|utils)\.[A-Za-z_.0-9]+|torch\.nn\.modules\.\w+\.\w+|"
    r"builtins\.(getattr|slice|range)?|pathlib\.(PosixPath|WindowsPath|Path)|"
    r"types\.SimpleNamespace|argparse\.Namespace|numpy\.(dtype|ndarray)|"
    r"numpy(\._core|\.core)\.multiarray\.(scalar|_reconstruct)|datetime\.(datetime|date)"
)
"""Besides those of TORCH; the restricted loader of ultralytics decides again, name by name."""
STRINGS = {
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING",
    "SHORT_BINSTRING",
}  # fmt: skip
SAVE_SAFELY = {
    "torch": "Save it with torch.export.save(torch.export.export(model, (example,)), 'model.pt2'), "
    "or the weights alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors').",
    "sklearn": "Save it with skops: skops.io.dump(model, 'model.skops').",
    "": "Save it as ONNX, safetensors, .pt2 (torch.export.save) or .skops (skops.io.dump).",
}


def names_in(data: bytes) -> set[str]:
    """Every `module.name` that unpickling would look up; BadPackage if that cannot be known."""
    if len(data) > MAX_PICKLE:
        raise BadPackage(f"A pickle of more than {MAX_PICKLE >> 20} MB is not looked into.")
    found: set[str] = set()
    memo: dict[int, Any] = {}
    stack: list[Any] = []  # strings that were pushed last; anything else is None
    ended = -1
    argument: Any
    try:
        for opcode, argument, place in pickletools.genops(data):
            name = opcode.name
            if name in STRINGS:
                stack.append(argument)
            elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1] if stack else None
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo.get(argument))
            elif name in ("GLOBAL", "INST"):
                found.add(argument.replace(" ", "."))
                stack.append(None)
            elif name == "STACK_GLOBAL":
                if len(stack) < 2 or not all(isinstance(part, str) for part in stack[-2:]):
                    raise BadPackage("A pickle names what it imports in a way that hides it.")
                found.add(".".join(stack[-2:]))
                stack.append(None)
            elif name in ("EXT1", "EXT2", "EXT4"):
                raise BadPackage("A pickle uses the extension registry.")
            elif name not in ("PROTO", "FRAME"):
                stack.append(None)
            ended = place or 0
            if len(stack) > 100_000:
                del stack[:-1000]
    except BadPackage:
        raise
    except Exception as error:
        raise BadPackage(f"It is not a pickle that can be followed: {str(error)[:120]}.") from error
    if ended + 1 < len(data):
        raise BadPackage("Bytes follow the end of the pickle.")
    return found


def check_checkpoint(path: Path) -> set[str]:
    """The names in a torch checkpoint (zip); BadPackage unless all are on the allow-list.

    Returns those beyond a plain state dict: empty, or the classes of ultralytics.
    """
    tripwire(path)
    try:
        with zipfile.ZipFile(path) as opened:
            members = [item for item in opened.infolist() if item.filename.endswith(".pkl")]
            if any(item.file_size > MAX_PICKLE for item in members):
                raise BadPackage("The checkpoint's pickle is too large.")
            if len(members) != 1 or not members[0].filename.endswith("/data.pkl"):
                raise BadPackage(
                    f"{path.name} is not a checkpoint that torch.save wrote.",
                    hint=SAVE_SAFELY["torch"],
                )
            if any("/code/" in item.filename for item in opened.infolist()):
                raise BadPackage(f"{path.name} is TorchScript.", hint=SAVE_SAFELY["torch"])
            names = names_in(opened.read(members[0]))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BadPackage(
            f"{path.name} is not a checkpoint that torch 1.6 or later wrote.",
            hint=SAVE_SAFELY["torch"],
        ) from error
    other = {name for name in names if not TORCH.fullmatch(name)}
    if strange := sorted(name for name in other if not ULTRALYTICS.fullmatch(name)):
        refuse(path, strange)
    return other


def refuse(path: Path, names: list[str]) -> None:
    """BadPackage that names what the pickle would import, and how to save the model safely."""
    told = ", ".join(name[:60] for name in names[:5]) + (" …" if len(names) > 5 else "")
    kind = next((k for k in ("sklearn", "torch") if any(n.startswith(k) for n in names)), "")
    raise BadPackage(
        f"{path.name} is a pickle that would import {told}; a pickle can run any code.",
        hint=SAVE_SAFELY[kind],
    )


def tripwire(path: Path) -> list[str]:
    """What picklescan says of a file; BadPackage when it finds a known danger."""
    from picklescan.scanner import SafetyLevel, scan_file_path

    found = scan_file_path(str(path))
    told = [f"{item.module}.{item.name}: {item.safety.value}" for item in found.globals]
    dangerous = [
        f"{item.module}.{item.name}" for item in found.globals
        if item.safety is SafetyLevel.Dangerous
    ]  # fmt: skip
    if dangerous:
        refuse(path, sorted(dangerous))
    return sorted(told)
