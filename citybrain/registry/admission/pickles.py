"""Pickles are read here as text and never run; what counts is which names they would import.

The allow-list is the gate. It is a walk over the opcodes that knows only the ways of naming that
real checkpoints use; what it cannot follow it refuses. `picklescan` (a deny-list) and `fickling`
(which follows the opcodes) are tripwires beside it, and their report is kept.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.models.zip_file import open_zip

MAX_PICKLE = 64 << 20
MAX_OPCODES = 1_000_000
MAX_RECORDS = 50_000
MAX_DEPTH = 1000
TORCH = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state|qtensor)|"
    r"torch\.(Size|device|dtype|\w+Storage|storage\.(UntypedStorage|TypedStorage))|"
    r"torch\.(float|double|half|bfloat16|u?int(8|16|32|64)|bool)\d*|"
    r"torch\.serialization\._get_layout|collections\.OrderedDict|builtins\.(set|dict|list)|"
    r"__builtin__\.set|_codecs\.encode|torch\.nn\.parameter\.Parameter"
)
"""What a state dict of tensors needs, and nothing more."""
ULTRALYTICS = re.compile(
    r"ultralytics\.(nn|utils)(\.[a-z_0-9]+){0,2}\.(v\d+)?[A-Z]\w*|torch\.nn\.modules\.\w+\.[A-Z]\w*|"
    r"builtins\.(getattr|slice|range)|pathlib\.(PosixPath|WindowsPath|Path)|"
    r"types\.SimpleNamespace|argparse\.Namespace|numpy\.(dtype|ndarray)|"
    r"numpy(\._core|\.core)\.multiarray\.(scalar|_reconstruct)|datetime\.(datetime|date)"
)
"""Besides those of TORCH, classes alone; the restricted loader of ultralytics decides again, name by name."""
INPUTS = re.compile(rf"{TORCH.pattern}|torch\.utils\._pytree\.\w+")
"""What the example inputs of a program may name: tensors in tuples and dicts."""
RECORD = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|"
    r"\.data/(version|serialization_id))"
)
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
    ended, depth = -1, 0
    argument: Any
    try:
        for count, (opcode, argument, place) in enumerate(pickletools.genops(data)):
            name = opcode.name
            if count > MAX_OPCODES:
                raise BadPackage(f"A pickle of more than {MAX_OPCODES} steps is not looked into.")
            depth += (name == "MARK") - (pickletools.markobject in opcode.stack_before)
            if depth > MAX_DEPTH:
                raise BadPackage(f"A pickle nests more than {MAX_DEPTH} deep.")
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
    try:
        with open_zip(path, MAX_RECORDS) as opened:
            names = _names_of(path.name, opened)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BadPackage(
            f"{path.name} is not a checkpoint that torch 1.6 or later wrote.",
            hint=SAVE_SAFELY["torch"],
        ) from error
    other = {name for name in names if not TORCH.fullmatch(name)}
    if strange := sorted(name for name in other if not ULTRALYTICS.fullmatch(name)):
        refuse(path, strange)
    return other


def _names_of(name: str, opened: zipfile.ZipFile) -> set[str]:
    """The names in the one pickle of a checkpoint; every other record is raw bytes."""
    found: set[str] | None = None
    for entry in opened.infolist():
        if "/code/" in entry.filename or entry.filename.endswith("/constants.pkl"):
            raise BadPackage(f"{name} is TorchScript, not a checkpoint.", hint=SAVE_SAFELY["torch"])
        # torch stores its records as they are; a compressed one was made to be small.
        if not RECORD.fullmatch(entry.filename) or entry.compress_type != zipfile.ZIP_STORED:
            raise BadPackage(
                f"{name} is not a checkpoint that torch.save wrote: {entry.filename[:80]!r}.",
                hint=SAVE_SAFELY["torch"],
            )
        if entry.filename.endswith("/data.pkl"):
            if found is not None or entry.file_size > MAX_PICKLE:
                raise BadPackage(f"{name} holds two pickles, or one that is too large.")
            found = names_in(opened.read(entry))
    if found is None:
        raise BadPackage(
            f"{name} is not a checkpoint that torch.save wrote.", hint=SAVE_SAFELY["torch"]
        )
    return found


def check_program(path: Path) -> None:
    """The example inputs in a `.pt2` are a checkpoint of their own; BadPackage if it could run code."""
    try:
        opened = open_zip(path, MAX_RECORDS)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadPackage(f"{path.name} is not what torch.export.save writes.") from error
    with opened:
        for entry in opened.infolist():
            if "/data/sample_inputs/" not in entry.filename:
                continue
            if entry.file_size > MAX_PICKLE:
                raise BadPackage(f"{entry.filename[:80]} is larger than {MAX_PICKLE >> 20} MB.")
            try:
                with zipfile.ZipFile(io.BytesIO(opened.read(entry))) as inner:
                    names = _names_of(entry.filename[:80], inner)
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise BadPackage(f"{entry.filename[:80]} is not what torch.save writes.") from error
            if strange := sorted(name for name in names if not INPUTS.fullmatch(name)):
                refuse(Path(entry.filename), strange)


def refuse(path: Path, names: list[str]) -> None:
    """BadPackage that names what the pickle would import, and how to save the model safely."""
    told = ", ".join(name[:60] for name in names[:5]) + (" …" if len(names) > 5 else "")
    kind = next((k for k in ("sklearn", "torch") if any(n.startswith(k) for n in names)), "")
    raise BadPackage(
        f"{path.name} is a pickle that would import {told}; a pickle can run any code.",
        hint=SAVE_SAFELY[kind],
    )


def tripwire(path: Path) -> list[str]:
    """What picklescan and fickling say of a checkpoint; BadPackage when either sees an attack.

    picklescan knows dangerous names, fickling follows what the opcodes would do. Of every checkpoint
    fickling says that its imports could run code, which is why the allow-list decides.
    """
    from picklescan.scanner import SafetyLevel, scan_file_path

    found = scan_file_path(str(path))
    told = [f"{item.module}.{item.name}: {item.safety.value}" for item in found.globals]
    dangerous = [
        f"{item.module}.{item.name}" for item in found.globals
        if item.safety is SafetyLevel.Dangerous
    ]  # fmt: skip
    if dangerous:
        refuse(path, sorted(dangerous))
    return [*sorted(told), f"fickling: {_second_opinion(path)}"]


def _second_opinion(path: Path) -> str:
    """Fickling's word for a checkpoint's pickle; BadPackage for what it holds to be an attack."""
    from fickling.analysis import Severity, check_safety
    from fickling.fickle import Pickled

    with zipfile.ZipFile(path) as opened:
        name = next(n for n in opened.namelist() if n.endswith("/data.pkl"))
        found = check_safety(Pickled.load(opened.read(name)))
    word = str(found.severity.name).lower().replace("_", " ")
    if found.severity > Severity.LIKELY_UNSAFE:
        reason = (found.to_string().splitlines() or [""])[0][:200]
        raise BadPackage(f"{path.name} is {word}: {reason}", hint=SAVE_SAFELY["torch"])
    return word
