"""Lets people in, gives grants and limits and takes them back, until somebody kills it.

python tests/audit_worker.py DATABASE_URL

Each line on its standard input begins another such process.
"""

import itertools
import os
import sys

from support_kills import fork_for_each_line, say

from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.core.schemas.grants import NewForbidden, NewSuspension
from citybrain.core.schemas.quotas import NewAllotment, NewQuota
from citybrain.storage.database import Database
from citybrain.storage.records.controls import Controls
from citybrain.storage.records.people import People
from citybrain.storage.records.quotas import Quotas

ADMIN = Actor(key="k1", department="platform", role="admin")


def acts(database, name):
    """Acts about one department: each one's action in the audit and what it is about."""
    people, controls, quotas = People(database), Controls(database), Quotas(database)
    yield "department.add", people.add_department(NewDepartment(name=name), ADMIN).name
    key = people.add_key(NewKey(department=name), f"k-{name}", f"h-{name}", ADMIN)
    yield "key.issue", key.id
    grant = people.add_grant(NewGrant(department=name, algorithm="flow"), ADMIN)
    yield "grant.give", grant.algorithm
    limit = quotas.put(NewQuota(department=name, amount=5), ADMIN)
    yield "quota.set", limit.department
    yield "allotment.set", quotas.allot(name, NewAllotment(replicas=3), ADMIN).department
    stopped = controls.suspend(NewSuspension(kind="key", target=key.id, reason="test"), ADMIN)
    yield "suspension.set", stopped.target
    yield "pin.set", controls.pin(name, "flow", 1, ADMIN).algorithm
    line = controls.forbid(NewForbidden(category=name, reason="test"), ADMIN)
    yield "forbidden.set", line.category
    yield "forbidden.end", controls.allow(line.id, ADMIN).category
    controls.unpin(name, "flow", ADMIN)
    yield "pin.end", "flow"
    yield "suspension.lift", controls.lift(stopped.id, ADMIN).target
    yield "quota.end", quotas.end(limit.id, ADMIN).department
    yield "grant.end", people.revoke_grant(grant.id, ADMIN).id
    yield "key.revoke", people.revoke_key(key.id, ADMIN).id


def work(url):
    """Without end."""
    database = Database(url)
    database.revision()
    say(act="started", pid=os.getpid())
    for number in itertools.count():
        for action, target in acts(database, f"d{os.getpid()}-{number}"):
            say(act=action, target=target)


if __name__ == "__main__":
    fork_for_each_line(lambda: work(*sys.argv[1:]))
