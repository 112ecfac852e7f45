"""The notice that a retired algorithm's answers carry, made once and not for each call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import format_datetime

from citybrain.core.errors import Retired
from citybrain.core.names import parse_ref
from citybrain.core.schemas import Retirement


@dataclass(frozen=True)
class Notice:
    """RFC 9745 `Deprecation`, RFC 8594 `Sunset`, and `Link` to the successor."""

    headers: tuple[tuple[bytes, bytes], ...]
    sunset: float
    message: str
    hint: str

    @classmethod
    def of(cls, retirement: Retirement) -> Notice:
        """The notice of a retirement in force."""
        one = retirement
        name = f"{one.algorithm}@{one.version}" if one.version else one.algorithm
        headers = [
            ("deprecation", f"@{int(one.at.timestamp())}"),
            ("sunset", format_datetime(one.sunset, usegmt=True)),
        ]
        if one.replacement:
            headers.append(("link", f'<{_address(one.replacement)}>; rel="successor-version"'))
        return cls(
            headers=tuple((key.encode(), value.encode()) for key, value in headers),
            sunset=one.sunset.timestamp(),
            message=f"{name} was retired and its sunset was {one.sunset:%Y-%m-%d %H:%M} UTC.",
            hint=f"Call {one.replacement} instead." if one.replacement else "Ask its owner.",
        )

    @property
    def trailer(self) -> tuple[tuple[str, str], ...]:
        """The same for gRPC's trailing metadata."""
        return tuple((key.decode(), value.decode()) for key, value in self.headers)

    def check(self) -> None:
        """Raise Retired when the sunset has passed."""
        if self.sunset <= time.time():
            raise Retired(self.message, hint=self.hint)


def _address(replacement: str) -> str:
    ref = parse_ref(replacement)
    if ref.version:
        return f"/v2/models/{ref.algorithm}/versions/{ref.version}"
    return f"/v2/models/{ref}"
