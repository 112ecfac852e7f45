"""Other forms of a version: the job that makes one, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from citybrain.core.schemas.people import Known, Said

FormKind = Literal["onnx", "int8"]


class NewConversion(Said):
    """A form that is wanted of a version."""

    form: FormKind = Field(
        default="onnx",
        description="onnx: the same answers, served in its place where it is faster. "
        "int8: smaller and less exact, the next version, promoted by its own gate.",
    )
    scenario: str = Field(
        default="", max_length=63, description="Whose samples are compared; empty: the last exam's."
    )


class Conversion(Known):
    """One conversion, with its report when it is done."""

    id: str
    algorithm: str
    version: int
    form: FormKind
    scenario: str
    state: Literal["waiting", "running", "done", "failed"]
    made: int
    """The version that holds the form: itself for onnx, the next one for int8; 0 until done."""
    report: dict[str, Any]
    error: dict[str, Any]
    asked_by: str
    created_at: datetime
    finished_at: datetime | None


class Form(Known):
    """An admitted form of a version beside its source; its answers agree within 1e-3."""

    kind: FormKind
    digest: str
    milliseconds: float
    """Median time of one call where it was made, in milliseconds, and the source's beside it."""
    source_milliseconds: float
    served: bool
    """Whether replicas load it in place of the source."""
