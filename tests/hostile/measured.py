"""A step of admission, run inside the sandbox with a look at what it took and what it left."""

import importlib
import json
import resource
from pathlib import Path


def step(work, request):
    """Do the step that `request` names; write beside it what it took and the markers that it sees."""
    module, _, function = request.pop("of").partition(":")
    markers = request.pop("markers")
    try:
        return getattr(importlib.import_module(module), function)(work, request)
    finally:
        # Clean because `unshare` forks the child: nothing of the parent's own size is in it.
        used = resource.getrusage(resource.RUSAGE_SELF)
        others = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = sum(one.ru_utime + one.ru_stime for one in (used, others))
        seen = [path for path in markers if Path(path).exists()]
        told = {"memory": used.ru_maxrss << 10, "seconds": seconds, "markers": seen}
        (work / "used.json").write_text(json.dumps(told))


def nothing(work, request):
    return {}
