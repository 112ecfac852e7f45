"""Promoters in a process of their own; told of each round on stdin, says who won on stdout.

python tests/promotion_racer.py DATABASE_URL COUNT
"""

import json
import sys
import threading

from citybrain.core.errors import AliasMoved
from citybrain.core.schemas import Actor
from citybrain.storage.database import Database
from citybrain.storage.records.history import History


def main(url, count):
    history = History(Database(url))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        expected, first = json.loads(line)
        won, lost = [], []
        barrier = threading.Barrier(int(count))

        def promote(version, expected=expected, won=won, lost=lost, barrier=barrier):
            actor = Actor(key=f"k{version}", department="platform", role="admin")
            barrier.wait()
            try:
                asked = history.ask("flow", "champion", version, "", actor, expected=expected)
                history.approve(asked.id, actor, self_allowed=True)
                won.append(version)
            except AliasMoved:
                lost.append(version)

        threads = [threading.Thread(target=promote, args=(first + n,)) for n in range(int(count))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps([won, lost]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
