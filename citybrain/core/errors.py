"""Everything that can go wrong on purpose, as one tree.

CityBrainError
├─ InvalidInput      BadTensor, BadMedia, BadJson, TooLarge, BadRequest, UrlTooLong, HeadTooLarge, BadPackage, BadScenario, BadData, …
├─ NotSignedIn       MissingKey, BadKey, SignInFailed
├─ Refused           NotGranted, NotAllowed, NetworkNotAllowed, GateNotPassed, ApprovalNeeded, PurposeMissing, Suspended, …
├─ NotFound          AlgorithmNotFound, VersionNotFound, ScenarioNotFound, PluginNotFound, RowNotFound
├─ Retired, Cancelled
├─ Conflict          NameTaken, InFlight, AliasMoved, DigestMismatch, VersionWithdrawn
└─ Unavailable       NotDeployed, NotReady, Overloaded (QuotaExceeded, RateLimited), DeadlineExceeded, ModelFailed, RemoteDown, …

Every error has a stable `code`, a sentence and, where there is one, the next step as `hint`.
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
        return error_from, (self.code, self.message, self.hint)


class InvalidInput(CityBrainError):
    """The caller's input is wrong; the same call will fail again."""


class BadTensor(InvalidInput):
    """A tensor has a wrong name, datatype, shape or value."""


class BadMedia(InvalidInput):
    """An image or sound cannot be decoded, or is beyond the limits."""


class BadJson(InvalidInput):
    """A body is not the JSON that the route asks for."""


class BadEncoding(InvalidInput):
    """A body is compressed in a way that this door does not take."""


class TooLarge(InvalidInput):
    """A body or a batch is larger than this door takes."""


class BadRequest(InvalidInput):
    """What came is not HTTP, or hardly more than its framing."""


class UrlTooLong(InvalidInput):
    """A URL is longer than this door takes."""


class HeadTooLarge(InvalidInput):
    """A request has more headers, or longer ones, than this door takes."""


class BadPackage(InvalidInput):
    """An algorithm's folder or its `algorithm.yaml` is wrong."""


class SandboxFailed(BadPackage):
    """The process that opened a package died without an answer."""


class BadScenario(InvalidInput):
    """A `scenario.yaml` is wrong."""


class WeakPassword(InvalidInput):
    """A password is too short, or easy to guess."""


class BadData(InvalidInput):
    """A data set cannot be read; the message names the first bad line or file."""


class NotSignedIn(CityBrainError):
    """Nobody is known to stand behind this call."""


class MissingKey(NotSignedIn):
    """The call carries no key."""


class BadKey(NotSignedIn):
    """The key is unknown, mistyped, expired or revoked."""


class SignInFailed(NotSignedIn):
    """Name, password or code are wrong, or there were too many tries."""


class Refused(CityBrainError):
    """The caller is known, and may not do this."""


class NotGranted(Refused):
    """The department has no grant for this algorithm and purpose."""


class PurposeMissing(Refused):
    """A key of several purposes must say which one this call serves."""


class Suspended(Refused):
    """The grant, key, algorithm or department was stopped, until somebody lifts that."""


class LevelTooHigh(Refused):
    """The answer is more sensitive than what this key may see."""


class ForbiddenCategory(Refused):
    """The negative list names this category of data, or this pair of them."""


class OutOfScope(Refused):
    """The key's scopes do not name this act."""


class PurposeNotServed(Refused):
    """The algorithm was made for other purposes than this."""


class NotAllowed(Refused):
    """The key's role may not do this."""


class NetworkNotAllowed(Refused):
    """The key may not be used from this address."""


class GateNotPassed(Refused):
    """The version did not reach the numbers that its scenario asks for."""


class AllotmentExceeded(Refused):
    """A department's deployments would take more than it was allotted."""


class ApprovalNeeded(Refused):
    """A second person has to approve this first."""


class HostNotListed(Refused):
    """A model lies on a server that the settings do not list."""


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


class InFlight(Conflict):
    """A call with the same Idempotency-Key is under way."""


class IdempotencyMismatch(InvalidInput):
    """The Idempotency-Key came before with another call."""


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
    """The algorithm is being started, or its deployment failed."""


class Overloaded(Unavailable):
    """More calls are waiting than the platform accepts."""

    retry_after = 1  # seconds, as far as they can be told
    headers: tuple[tuple[bytes, bytes], ...] = ()  # what an answer over HTTP says of the limit


class QuotaExceeded(Overloaded):
    """A limit of the department is used up; the message says which, and when it begins anew."""


class RateLimited(Overloaded):
    """The department calls faster, or more at once, than its limit allows."""


class DeadlineExceeded(Unavailable):
    """The time that the caller, or the platform, gives a call was over before its answer."""


class Cancelled(CityBrainError):
    """The caller hung up before its call was answered."""


class PlatformDown(Unavailable):
    """No platform answers at this address."""


class MissingLibrary(Unavailable):
    """An optional library is not installed."""


class ModelFailed(Unavailable):
    """The model raised an error on an input that looked valid, or ended its replica."""


class PipelineFailed(ModelFailed):
    """A step of a pipeline refers to what an earlier step's answer does not have."""


class RemoteDown(Unavailable):
    """The server that a remote model lies on gives no answer, or none in time."""


class ShuttingDown(Unavailable):
    """The platform is being stopped and takes no new calls."""


UNTRUSTED = (SignatureWrong, DigestMismatch)
"""What makes a version one that nobody vouches for: it is not loaded, and the audit knows."""


def all_errors(root: type[CityBrainError] = CityBrainError) -> dict[str, type[CityBrainError]]:
    """Every error class by its code, the root included."""
    below = (all_errors(child).items() for child in root.__subclasses__())
    return {root.code: root} | {code: error for found in below for code, error in found}


def error_from(code: str, message: str, hint: str = "") -> CityBrainError:
    """The same error on this side of the wire: a caller catches one class in process and remote."""
    return all_errors().get(code, CityBrainError)(message, hint=hint)
