"""A model on another server: how its address is written, and what a package says of it.

`triton://HOST[:PORT]/MODEL[@VERSION]` is the Open Inference Protocol over HTTP, `triton+grpc://…`
the same over gRPC. The package holds no weights: its weights file is a small JSON with the address
and with the tensors that the server told when the model was registered.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError, field_validator

from citybrain.core.errors import BadPackage, HostNotListed, InvalidInput
from citybrain.core.tensors import Signature, TensorSpec
from citybrain.models.package import Package, Strict
from citybrain.models.runtime import RUNTIMES
from citybrain.models.tensor_schema import Tensor
from citybrain.models.transformers_checks import read_object

PORTS = {"triton": 8000, "triton+grpc": 8001}
REMOTE_FILE = "remote.json"
MAX_BYTES = 256 << 10
MAX_BATCH = 64
"""Rows of one call where the server does not tell how many it takes."""
_NAME = r"[A-Za-z0-9_][\w.-]{0,199}"
_ADDRESS = re.compile(rf"(triton|triton\+grpc)://([^/]+)/({_NAME})(?:@({_NAME}))?", re.ASCII)
_PLACE = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Address(NamedTuple):
    """Where a remote model lies, in its one canonical form."""

    scheme: str
    place: str
    """`host:port`, in small letters."""
    model: str
    version: str
    """Empty: whichever the server chooses."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}/{self.model}{'@' * bool(self.version)}{self.version}"


class RemoteModel(Strict):
    """The weights file of a remote model."""

    address: str
    max_batch: int = Field(default=MAX_BATCH, ge=1, description="Rows that it takes in one call.")
    inputs: list[Tensor] = Field(min_length=1, max_length=100)
    outputs: list[Tensor] = Field(min_length=1, max_length=100)

    @classmethod
    def of(cls, found: dict[str, Any], what: str) -> RemoteModel:
        """Checked, or BadPackage that names the first wrong field of `what`."""
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise BadPackage(f"{what}: {where}: {first['msg']}.") from error

    @field_validator("inputs", "outputs")
    @classmethod
    def _once(cls, tensors: list[Tensor]) -> list[Tensor]:
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise ValueError("a name stands twice")
        return tensors

    def rows_at_once(self) -> int:
        """The largest batch; 1 where the first axis is fixed to it, BadPackage where it is no batch."""
        fixed = False
        for tensor in (*self.inputs, *self.outputs):
            if tensor.shape[0] not in (-1, 1):
                raise BadPackage(
                    f"Tensor {tensor.name!r} has the shape {list(tensor.shape)}: its first axis is "
                    "not a batch axis.",
                    hint="Serve it there with a first axis of any size (-1) or of one row.",
                )
            fixed = fixed or tensor.shape[0] == 1
        return 1 if fixed else self.max_batch

    def signature(self) -> Signature:
        """Its tensors as tasks see them: any number of rows, one call after another if need be."""
        return Signature(_specs(self.inputs), _specs(self.outputs))

    def changes(self, now: RemoteModel) -> str:
        """What the server tells differently now; empty: nothing."""
        told = []
        for before, after in ((self.inputs, now.inputs), (self.outputs, now.outputs)):
            old, new = ({tensor.name: _form(tensor) for tensor in side} for side in (before, after))
            told += [
                f"{name} was {old.get(name, 'not there')}, is {new.get(name, 'not there')}"
                for name in sorted(old.keys() | new.keys())
                if old.get(name) != new.get(name)
            ]
        return "; ".join(told[:5])


def parse_address(text: str) -> Address:
    """The address in its canonical form; InvalidInput unless it names a host and a model, no more."""
    found = _ADDRESS.fullmatch(text)
    try:
        if not found:
            raise ValueError("it is not SCHEME://HOST[:PORT]/MODEL[@VERSION]")
        scheme, place, model, version = found.groups(default="")
        return Address(scheme, _place(place, PORTS[scheme]), model, version)
    except ValueError as error:
        raise InvalidInput(  # without the text itself, which may hold a password
            f"This is no address of a remote model: {error}.",
            hint="Like triton://gpu-1:8000/resnet@2, or triton+grpc://…; no user, path or query.",
        ) from error


def check_listed(address: Address, hosts: str) -> None:
    """HostNotListed unless the list (`host` or `host:port`, by commas) holds the address's place.

    A host without a port means the port that the protocol is known for.
    """
    for entry in filter(None, (part.strip() for part in hosts.split(","))):
        try:
            if _place(entry, PORTS[address.scheme]) == address.place:
                return
        except ValueError as error:
            raise HostNotListed(
                f"CITYBRAIN_REMOTE__HOSTS holds {entry[:80]!r}, which is no HOST or HOST:PORT.",
                hint="An admin mends it and starts the platform again.",
            ) from error
    raise HostNotListed(
        f"{address.place} is not on the list of servers that models may lie on.",
        hint="An admin adds it to CITYBRAIN_REMOTE__HOSTS and starts the platform again.",
    )


def read_remote(path: Path) -> RemoteModel:
    """The weights file of a remote model, or BadPackage."""
    if path.stat().st_size > MAX_BYTES:
        raise BadPackage(f"{path.name} is larger than {MAX_BYTES >> 10} kB.")
    model = RemoteModel.of(read_object(path), path.name)
    try:
        parse_address(model.address)
    except InvalidInput as error:
        raise BadPackage(f"{path.name}: {error.message}", hint=error.hint) from error
    return model


def remote_address(package: Package) -> str:
    """Where a package's model lies; empty for one that holds its weights itself."""
    if not RUNTIMES.get(package.manifest.runtime).remote:
        return ""
    return read_remote(package.weights).address


def _place(text: str, port: int) -> str:
    """`host:port` in its one form, so that equal places are equal texts; ValueError."""
    found = _PLACE.fullmatch(text.lower())
    if not found:
        raise ValueError("what stands before the first / is not a host and a port")
    host, number = found[1], int(found[2] or port)
    if not 0 < number < 65536:
        raise ValueError(f"{number} is not a port")
    labels = host.split(".")
    if host.startswith("["):
        host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    elif re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        # 127.1, 0x7f000001 and 2130706433 are 127.0.0.1 to a resolver: one spelling only.
        ipaddress.IPv4Address(host)
    elif len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host[:80]!r} is not the name of a host")
    return f"{host}:{number}"


def _specs(tensors: list[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, one.dtype, (-1, *one.shape[1:])) for one in tensors)


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
