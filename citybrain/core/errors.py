"""Everything that can go wrong on purpose, as one tree.

CityBrainError
├─ InvalidInput      BadTensor, BadMedia, BadJson, TooLarge, BadPackage, BadScenario, BadData
├─ NotSignedIn       MissingKey, BadKey
├─ Refused           NotGranted, NotAllowed, GateNotPassed, ApprovalNeeded, PurposeMissing
├─ NotFound          AlgorithmNotFound, VersionNotFound, ScenarioNotFound, PluginNotFound, RowNotFound
├─ Retired
├─ Conflict          NameTaken, AliasMoved, DigestMismatch, VersionWithdrawn
└─ Unavailable       NotDeployed, NotReady, Overloaded, PlatformDown, MissingLibrary, ModelFailed

Every error has a stable `code`, a sentence and, where there is one, the next step as `hint`.
HTTP statuses live in one table at the doors (`serving/problems.py`), not here.
"""

from __future__ import annotations

import re


class CityBrainError(Exception):
    """An error that a caller may read: what happened, why, what to do next."""

    code = "error"

    def __init_subclass__(cls) -> None:
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.code, self.message, self.hint)


class InvalidInput(CityBrainError):
    """The caller's input is wrong; the same call will fail again."""


class BadTensor(InvalidInput):
    """A tensor has a wrong name, datatype, shape or value."""


class BadMedia(InvalidInput):
    """An image or sound cannot be decoded, or is beyond the limits."""


class BadJson(InvalidInput):
    """A body is not the JSON that the route asks for."""


class TooLarge(InvalidInput):
    """A body or a batch is larger than this door takes."""


class BadPackage(InvalidInput):
    """An algorithm's folder or its `algorithm.yaml` is wrong."""


class SandboxFailed(BadPackage):
    """The process that opened a package died without an answer."""


class BadScenario(InvalidInput):
    """A `scenario.yaml` is wrong."""


class BadData(InvalidInput):
    """A data set cannot be read; the message names the first bad line or file."""


class NotSignedIn(CityBrainError):
    """Nobody is known to stand behind this call."""


class MissingKey(NotSignedIn):
    """The call carries no key."""


class BadKey(NotSignedIn):
    """The key is unknown, mistyped, expired or revoked."""


class Refused(CityBrainError):
    """The caller is known, and may not do this."""


class NotGranted(Refused):
    """The department has no grant for this algorithm and purpose."""


class PurposeMissing(Refused):
    """A key of several purposes must say which one this call serves."""


class NotAllowed(Refused):
    """The key's role may not do this."""


class GateNotPassed(Refused):
    """The version did not reach the numbers that its scenario asks for."""


class ApprovalNeeded(Refused):
    """A second person has to approve this first."""


class NotFound(CityBrainError):
    """There is no such thing."""


class AlgorithmNotFound(NotFound):
    """No algorithm has this name."""


class VersionNotFound(NotFound):
    """The algorithm has no such version or alias."""


class ScenarioNotFound(NotFound):
    """No scenario has this name."""


class PluginNotFound(NotFound):
    """Nothing on the shelf has this name."""


class RowNotFound(NotFound):
    """No department, key, grant, job or the like has this id."""


class Retired(CityBrainError):
    """The sunset date of this algorithm or version has passed."""


class Conflict(CityBrainError):
    """The state is not what the caller believed."""


class NameTaken(Conflict):
    """The name is in use."""


class AliasMoved(Conflict):
    """Somebody else moved the alias first."""


class SignatureWrong(Conflict):
    """Nobody trusted vouches for a version's files."""


class DigestMismatch(Conflict):
    """A file is not the one that was registered."""


class VersionWithdrawn(Conflict):
    """The version was withdrawn: it may be neither promoted nor deployed."""


class Unavailable(CityBrainError):
    """Not now; the same call may work later."""


class NotDeployed(Unavailable):
    """The algorithm is registered, and nobody has deployed it."""


class NotReady(Unavailable):
    """The algorithm is being started."""


class Overloaded(Unavailable):
    """More calls are waiting than the platform accepts."""


class PlatformDown(Unavailable):
    """No platform answers at this address."""


class MissingLibrary(Unavailable):
    """An optional library is not installed."""


class ModelFailed(Unavailable):
    """The model raised an error on an input that looked valid."""


def all_errors(
    root: type[CityBrainError] = CityBrainError,
) -> dict[str, type[CityBrainError]]:
    """Every error class by its code, the root included."""
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= all_errors(child)
    return found


def _rebuild(code: str, message: str, hint: str) -> CityBrainError:
    return all_errors().get(code, CityBrainError)(message, hint=hint)


def error_from(code: str, message: str, hint: str = "") -> CityBrainError:
    """The same error on this side of the wire: a caller catches one class in process and remote."""
    return _rebuild(code, message, hint)
