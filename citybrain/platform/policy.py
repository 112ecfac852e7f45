"""Who may do what: one table, and the few lines that read it.

Every route of every door names an action of this table; what names none is refused at start-up. A
rule says which roles may do it to every department's objects (`any`) and which to their own
department's (`own`). Purposes and grants of calls are checked where calls are (`serving/gateway`).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple, NoReturn

from citybrain.core.errors import InvalidInput, NotAllowed
from citybrain.core.levels import Level
from citybrain.core.names import NAME
from citybrain.core.schemas import Actor, Key, NewKey, Role

Roles = frozenset[Role]
NOBODY: Roles = frozenset()
DEVELOPER: Roles = frozenset({"developer"})
DEPARTMENT: Roles = frozenset({"department"})
ADMIN: Roles = frozenset({"admin"})
AUDITOR: Roles = frozenset({"auditor"})
STAFF = DEVELOPER | DEPARTMENT
"""Who works in a department."""
OVERSEERS = ADMIN | AUDITOR
CALLERS = STAFF | ADMIN
EVERYONE = STAFF | OVERSEERS
CALL = "call"
"""The one action whose object a scope may name: `call:NAME`."""


class Rule(NamedTuple):
    """Who may do one thing."""

    says: str
    any: Roles = NOBODY
    """Who may do it to every department's objects."""
    own: Roles = NOBODY
    """Who may do it to the objects of their own department."""
    level: Level = Level.PUBLIC
    """What a key must be cleared for at least."""
    anonymous: bool = False
    """Whether it takes no key at all."""


def _owner(says: str) -> Rule:
    """An act on an algorithm, of those who own it and of admins."""
    return Rule(says, any=ADMIN, own=DEVELOPER)


POLICY: dict[str, Rule] = {
    # algorithms and what becomes of them
    "algorithm.approve": _owner("say who approves its promotions"),
    "algorithm.loosen": Rule("allow self-approval in production", any=ADMIN),
    "algorithm.read": Rule("look at the catalogue, versions, cards and aliases", any=EVERYONE),
    "algorithm.retire": _owner("give notice that it ends, or take that back"),
    "alias.roll_back": _owner("point an alias to the version before"),
    "canary.read": Rule("look at canaries", any=EVERYONE),
    "canary.set": _owner("start a canary, or take it back"),
    "caller.read": Rule("see which departments and keys call it", any=OVERSEERS, own=DEVELOPER),
    "conversion.read": Rule("look at conversions", any=OVERSEERS, own=STAFF),
    "deployment.log": Rule(
        "read its replicas' logs", any=ADMIN, own=DEVELOPER, level=Level.INTERNAL
    ),
    "deployment.read": Rule("look at what should run and what runs", any=EVERYONE),
    "deployment.set": _owner("deploy it, or take it down"),
    "evaluation.data": Rule("evaluate on files of the platform's machine in production", any=ADMIN),
    "evaluation.read": Rule(
        "look at evaluations; those on other data than their scenario's are the owner's",
        any=OVERSEERS, own=STAFF,
    ),
    "evaluation.start": _owner("evaluate a version"),
    "lineage.read": Rule("see where versions come from and go to", any=EVERYONE),
    "past.read": Rule("see what was true at a moment", any=EVERYONE),
    "prediction.all": Rule(
        "read the sampled calls of all departments to it (audited)", any=ADMIN, own=DEVELOPER,
        level=Level.INTERNAL,
    ),
    "prediction.read": Rule(
        "read the sampled calls of one's department", own=CALLERS, level=Level.INTERNAL
    ),
    "promotion.ask": _owner("ask for a version behind an alias"),
    "promotion.decide": _owner("approve a promotion, or take it back"),
    "promotion.read": Rule("look at promotions", any=EVERYONE),
    "sampling.read": Rule("see how many calls are kept", any=EVERYONE),
    "sampling.set": _owner("say how many calls are kept"),
    "scenario.read": Rule("look at scenarios and league tables", any=EVERYONE),
    "shadow.read": Rule(
        "compare a shadow's answers with those that callers got", any=ADMIN, own=DEVELOPER,
        level=Level.INTERNAL,
    ),
    "traffic.read": Rule("see how its calls are shared", any=EVERYONE),
    "traffic.set": _owner("share its calls among deployments"),
    "version.convert": _owner("make another form of a version"),
    "version.end": _owner("withdraw a version, or delete a withdrawn one"),
    "version.register": _owner("register a version"),
    # departments, people and keys
    "department.read": Rule("see which departments there are", any=EVERYONE),
    "department.set": Rule("add departments", any=ADMIN),
    "grant.answer": Rule("answer who asks for a grant", any=ADMIN, own=DEVELOPER),
    "grant.ask": Rule("ask for a grant for a department", any=ADMIN, own=STAFF),
    "grant.end": Rule("end a grant", any=ADMIN),
    "grant.give": Rule("let a department call an algorithm", any=ADMIN, own=DEVELOPER),
    "grant.read": Rule("look at grants", any=OVERSEERS, own=STAFF),
    "key.issue": Rule("issue keys", any=ADMIN),
    "key.read": Rule("look at keys, never at their secrets", any=OVERSEERS, own=STAFF),
    "level.ask": Rule(
        "say how answers are made less sensitive than what goes in", any=ADMIN, own=DEVELOPER
    ),
    "level.decide": Rule("approve that answers are less sensitive, or end that", any=ADMIN),
    "level.read": Rule("see whose answers are less sensitive", any=EVERYONE),
    "notice.read": Rule("read the notices of one's department", own=EVERYONE),
    "pin.read": Rule("see which departments stay with a version", any=ADMIN, own=STAFF | AUDITOR),
    "pin.set": Rule("let one's department stay with a version", own=CALLERS),
    "suspension.read": Rule("see what is stopped", any=EVERYONE),
    "suspension.set": Rule(
        "stop an algorithm or its grants, or let it go on; keys and departments are for admins",
        any=ADMIN, own=DEVELOPER,
    ),
    "forbidden.read": Rule("look at the negative list", any=EVERYONE),
    "forbidden.set": Rule("change the negative list", any=ADMIN),
    "key.revoke": Rule("revoke a key", any=ADMIN),
    "key.rotate": Rule(
        "replace a key by a new one with the same rights", any=ADMIN, own=DEPARTMENT
    ),
    "user.read": Rule("see who signs in to the console", any=OVERSEERS),
    "user.set": Rule("let people in, change them, reset their sign-in", any=ADMIN),
    "self.read": Rule("ask who one is", any=EVERYONE),
    # calls and what they leave
    CALL: Rule("call an algorithm, with a grant and a purpose", any=CALLERS),
    "feature.push": Rule("write histories to the feature store", any=ADMIN | DEVELOPER),
    "feature.read": Rule("read features", any=CALLERS),
    "job.cancel": Rule("cancel a batch job", any=ADMIN, own=STAFF),
    "job.read": Rule("look at batch jobs", any=ADMIN, own=STAFF),
    "job.result": Rule("take a job's result (audited when it is another's)", any=ADMIN, own=STAFF),
    "job.submit": Rule("hand in a batch job", own=CALLERS),
    "request.read": Rule("look up a call in the ledger", any=OVERSEERS, own=STAFF),
    "usage.minutes": Rule("see the calls of all departments by minute", any=OVERSEERS),
    "usage.read": Rule("see usage by day", any=OVERSEERS, own=STAFF),
    # limits and bills
    "allotment.read": Rule("see what departments' deployments may take", any=EVERYONE),
    "allotment.set": Rule("say what a department's deployments may take", any=ADMIN),
    "disuse.read": Rule("see which algorithms hardly anybody calls", any=OVERSEERS),
    "income.read": Rule("see what others owe for a department's algorithms", any=OVERSEERS, own=STAFF),
    "operation.read": Rule("see how a scenario is used", any=EVERYONE),
    "price.read": Rule("read the price book", any=EVERYONE),
    "price.set": Rule("set prices", any=ADMIN),
    "quota.read": Rule("see limits and what is used of them", any=ADMIN, own=STAFF | AUDITOR),
    "quota.set": Rule("set limits, or end them", any=ADMIN),
    "rating.give": Rule("say what an answer was worth", any=ADMIN, own=STAFF),
    "rating.read": Rule("read what callers said; of others, owners and overseers alone", any=OVERSEERS, own=STAFF),
    "statement.issue": Rule("fix the bill of a month that is over", any=ADMIN),
    "statement.read": Rule("read bills and the calls behind them", any=OVERSEERS, own=STAFF),
    # the platform itself
    "api.read": Rule("read the API's description", any=EVERYONE),
    "audit.read": Rule("read the audit trail", any=AUDITOR),
    "console.files": Rule("load the console's scripts, styles and pictures", anonymous=True),
    "console.language": Rule("choose the console's language", anonymous=True),
    "metrics.read": Rule("read the platform's metrics", any=OVERSEERS),
    "mlflow.read": Rule("look at MLflow through the platform's door", any=ADMIN | DEVELOPER),
    "mlflow.write": Rule("write to MLflow through the platform's door", any=ADMIN | DEVELOPER),
    "platform.read": Rule("see what runs", any=EVERYONE),
    "retention.read": Rule("see how long logs are kept", any=EVERYONE),
    "retention.set": Rule("say how long logs are kept", any=ADMIN),
    "server.read": Rule("ask whether the server is there and ready", anonymous=True),
    "session.own": Rule("change one's own password", any=EVERYONE),
    "session.open": Rule("sign in to the console and out", anonymous=True),
    "signer.read": Rule("see whose signatures are trusted", any=EVERYONE),
    "signer.set": Rule("change whose signatures are trusted, sign a version again", any=ADMIN),
}  # fmt: skip


def allows(key: Key, action: str, target: str = "") -> bool:
    """Whether a key may do this at all; `target`: the algorithm of a call."""
    rule = POLICY[action]
    return (
        key.role in rule.any | rule.own
        and key.level >= rule.level
        and covers(key.scopes, action, target)
    )


def check(key: Key, action: str) -> None:
    """NotAllowed with the reason, unless the key may do this."""
    if allows(key, action):
        return
    rule = POLICY[action]
    may = rule.any | rule.own
    if key.role not in may:
        roles = " or ".join(role for role in ROLES if role in may)
        raise NotAllowed(
            f"The role {key.role} may not {rule.says}.", hint=f"It takes the role {roles}."
        )
    if key.level < rule.level:
        raise NotAllowed(
            f"This key is cleared for {key.level} data, not for {rule.level}.",
            hint="An admin issues one with another level.",
        )
    raise NotAllowed(
        f"This key's scopes do not cover {action}.", hint="An admin issues one with other scopes."
    )


def covers(scopes: list[str], action: str, target: str = "") -> bool:
    """Whether a key's scopes cover an action; a key without scopes may what its role may."""
    named = f"{action}:{target}"
    return not scopes or any(
        fnmatchcase(action, scope) or (target != "" and fnmatchcase(named, scope))
        for scope in scopes
    )


def check_scopes(scopes: list[str]) -> None:
    """InvalidInput for a scope that covers nothing."""
    for scope in scopes:
        head, _, name = scope.partition(":")
        call = head == CALL and (name == "*" or NAME.fullmatch(name))
        if not call and not any(fnmatchcase(action, scope) for action in POLICY):
            raise InvalidInput(
                f"The scope {scope[:80]!r} covers no action.",
                hint="Like: job.*, usage.read, call, call:crowd-level. See docs/access.md.",
            )


def check_not_more(key: Key, wanted: NewKey | Key) -> None:
    """NotAllowed where somebody would hand out, or get, more rights than they hold themselves."""
    if key.role not in ("admin", wanted.role):
        _refuse_more(f"the role {wanted.role}")
    if wanted.level > key.level:
        _refuse_more(f"the level {wanted.level}")
    if key.scopes and not (wanted.scopes and set(wanted.scopes) <= set(key.scopes)):
        _refuse_more("other scopes")
    if key.networks and not (wanted.networks and set(wanted.networks) <= set(key.networks)):
        _refuse_more("other networks")
    if key.role != "admin" and not key.user and not set(wanted.purposes) <= set(key.purposes):
        _refuse_more("other purposes")


def _refuse_more(what: str) -> NoReturn:
    raise NotAllowed(
        f"Your key does not have {what}, so it cannot give that to another.",
        hint="Somebody who has it does.",
    )


def reaches_all(who: Actor | Key, action: str) -> bool:
    """Whether this role does it to every department's objects."""
    return who.role in POLICY[action].any


def whose(who: Actor | Key, action: str) -> str:
    """Whose objects a list shows: one department's; nothing: everybody's."""
    return "" if reaches_all(who, action) else who.department


def reaches(who: Actor | Key, action: str, owner: str) -> bool:
    """Whether this role and department do it to an object of this owner."""
    rule = POLICY[action]
    return who.role in rule.any or (who.role in rule.own and who.department == owner)


ROLES: tuple[Role, ...] = ("developer", "department", "admin", "auditor")


def as_markdown() -> str:
    """The table for docs/access.md."""
    lines = [
        "| action | what | developer | department | admin | auditor |",
        "|---|---|---|---|---|---|",
    ]
    for action, rule in sorted(POLICY.items()):
        cells = ["all" if role in rule.any or rule.anonymous else "own" if role in rule.own else ""
                 for role in ROLES]  # fmt: skip
        says = f"{rule.says} (no key)" if rule.anonymous else rule.says
        if rule.level != Level.PUBLIC:
            says += f"; level `{rule.level}`"
        lines.append(f"| `{action}` | {says} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
