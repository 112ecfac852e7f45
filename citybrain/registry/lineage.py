"""Lineage both ways: from data to the departments that use what was trained on it, and back."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from citybrain.core.errors import CityBrainError, RowNotFound, VersionNotFound
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas.cards import LineageEdge, LineageGraph, LineageNode
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.runs import DIGEST, forms_in
from citybrain.registry.tracker import run_of
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.people import People
from citybrain.storage.records.usage import Usage

SHORT = 12
ENOUGH = 8
"""Digits of a digest that are shown, and that must be given at least."""


class LineageMap:
    """Draws the whole map from the truths each time; only what cannot change is remembered."""

    def __init__(
        self, catalogue: Catalogue, deployments: Deployments, people: People, usage: Usage,
        zone: ZoneInfo,
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._deployments = deployments
        self._people = people
        self._usage = usage
        self._zone = zone
        self._facts: dict[tuple[str, int], dict[str, str]] = {}

    def around(self, name: str, versions: Iterable[int] = (), *, seen_by: str = "") -> LineageGraph:
        """Upward and downward from some versions of an algorithm, or from all of them.

        `seen_by` names a department that may see no other department's use.
        """
        self._catalogue.algorithm(name)
        whole = self._whole(seen_by)
        wanted = {f"version:{name}@{version}" for version in versions}
        starts = [node.id for node in whole.nodes.values()
                  if node.id in wanted or (not wanted and node.id.startswith(f"version:{name}@"))]  # fmt: skip
        if missing := wanted - set(starts):
            raise VersionNotFound(f"There is no {min(missing).removeprefix('version:')}.")
        return whole.around(starts)

    def of_data(self, digest: str, *, seen_by: str = "") -> LineageGraph:
        """Everything that came of a data set, down to the departments."""
        whole = self._whole(seen_by)
        starts = [node.id for node in whole.nodes.values()
                  if len(digest) >= ENOUGH and node.kind == "data"
                  and node.facts.get("digest", "").startswith(digest.lower())]  # fmt: skip
        if not starts:
            raise RowNotFound(
                f"No version was trained on data with the digest {digest[:64]!r}.",
                hint=f"Give at least {ENOUGH} digits of the SHA-256 that lineage shows.",
            )
        return whole.around(starts)

    def _whole(self, seen_by: str) -> _Map:
        drawn = _Map()
        known = {}
        for found in self._catalogue.client.search_model_versions(max_results=10_000):
            known[found.name, int(found.version)] = found
        for (name, version), found in known.items():
            self._draw_version(drawn, name, version, found)
        for (name, version), facts in self._facts.items():
            if (name, version) in known:
                self._draw_source(
                    drawn, f"version:{name}@{version}", facts.get("source", ""), known
                )
        self._draw_use(drawn, seen_by)
        return drawn

    def _draw_version(self, drawn: _Map, name: str, version: int, found: Any) -> None:
        facts = self._lineage(name, version, found)
        node = f"version:{name}@{version}"
        drawn.add(node, "version", f"{name}@{version}", digest=found.tags.get(DIGEST, ""))
        for form in forms_in(found.tags):
            made = f"form:{name}@{version}/{form.kind}"
            drawn.add(made, "form", f"{name}@{version} {form.kind.upper()}", digest=form.digest)
            drawn.link(node, made, "converted to")
        before = node
        if found.run_id:
            before = f"run:{found.run_id}"
            label = facts.get("recipe") or "run"
            drawn.add(before, "run", label, run=found.run_id, seed=facts.get("seed", ""))
            drawn.link(before, node, "registered as")
        if service := facts.get("feature_service"):
            drawn.add(f"features:{service}", "features", service)
            drawn.link(f"features:{service}", before, "read by")
            before = f"features:{service}"
        digest, data = facts.get("data_digest", ""), facts.get("data", "")
        if digest or data:
            source = f"data:{digest or data}"
            drawn.add(source, "data", data or digest[:SHORT], digest=digest)
            drawn.link(source, before, "trained on")

    def _lineage(self, name: str, version: int, found: Any) -> dict[str, str]:
        """What a version was made from; it never changes, so each is asked once."""
        if (name, version) not in self._facts:
            facts: dict[str, str] = {}
            if run := run_of(self._catalogue.client, found.run_id):
                facts = {k.removeprefix("lineage."): v for k, v in run.data.params.items()
                         if k.startswith("lineage.")}  # fmt: skip
            if not found.tags.get(DIGEST):
                return facts  # being taken in: look again
            with contextlib.suppress(CityBrainError):
                options = self._catalogue.manifest(name, version).options
                facts["feature_service"] = str(options.get("feature_service", ""))
            self._facts[name, version] = facts
        return self._facts[name, version]

    def _draw_source(
        self, drawn: _Map, node: str, source: str, known: dict[tuple[str, int], Any]
    ) -> None:
        """`lineage.source` names the version that this one was converted from, or its origin."""
        if not source:
            return
        with contextlib.suppress(CityBrainError):
            ref = parse_ref(source)
            if ref.version and (ref.algorithm, ref.version) in known:
                drawn.link(f"version:{ref.algorithm}@{ref.version}", node, "converted to")
                return
        drawn.add(f"source:{source}", "source", source)
        drawn.link(f"source:{source}", node, "imported as")

    def _draw_use(self, drawn: _Map, seen_by: str) -> None:
        served: dict[tuple[str, int], list[str]] = defaultdict(list)
        for one in self._deployments.all():
            version = int(one.running.get("version", 0)) or one.version or self._pointed(
                one.algorithm, one.target
            )  # fmt: skip
            node = f"deployment:{one.algorithm}@{one.target}"
            drawn.add(node, "deployment", f"{one.algorithm}@{one.target}", state=one.state)
            form = f"form:{one.algorithm}@{version}/{one.running.get('form', '')}"
            shown = form if form in drawn.nodes else f"version:{one.algorithm}@{version}"
            drawn.link(shown, node, "deployed as")
            served[one.algorithm, version].append(node)
        self._draw_grants(drawn, served, seen_by)
        for used in self._usage.last_uses():
            if seen_by in ("", used.department):
                node = f"department:{used.department}"
                drawn.add(node, "department", used.department)
                says = f"{used.requests} calls, last on {used.day}"
                for start in served[used.algorithm, used.version] or [
                    f"version:{used.algorithm}@{used.version}"
                ]:
                    drawn.link(start, node, says)

    def _draw_grants(
        self, drawn: _Map, served: dict[tuple[str, int], list[str]], seen_by: str
    ) -> None:
        moment = datetime.now(self._zone)
        nodes: dict[str, list[str]] = defaultdict(list)
        for (algorithm, _), found in served.items():
            nodes[algorithm] += found
        for grant in self._people.grants(seen_by):
            if grant.revoked_at is None and (grant.until is None or grant.until > moment):
                node = f"department:{grant.department}"
                drawn.add(node, "department", grant.department)
                for start in nodes[grant.algorithm]:
                    drawn.link(start, node, f"granted for {grant.purpose}")

    def _pointed(self, name: str, target: str) -> int:
        with contextlib.suppress(CityBrainError):
            return self._catalogue.pointed(Ref(name, target))
        return 0


class _Map:
    """Nodes by id, edges both ways."""

    def __init__(self) -> None:
        self.nodes: dict[str, LineageNode] = {}
        self._says: dict[tuple[str, str], list[str]] = {}

    def add(self, node: str, kind: Any, name: str, **facts: str) -> None:
        kept = {key: value for key, value in facts.items() if value}
        self.nodes.setdefault(node, LineageNode(id=node, kind=kind, name=name, facts=kept))

    def link(self, source: str, target: str, says: str) -> None:
        said = self._says.setdefault((source, target), [])
        if says not in said:
            said.append(says)

    def around(self, starts: Iterable[str]) -> LineageGraph:
        """The part that leads to these nodes and the part that comes of them."""
        kept = {*self._reach(starts, 0), *self._reach(starts, 1)}
        nodes = [node for name, node in self.nodes.items() if name in kept]
        return LineageGraph(
            nodes=sorted(nodes, key=lambda node: (node.kind, node.id)),
            edges=[
                LineageEdge(source=source, target=target, says="; ".join(said))
                for (source, target), said in sorted(self._says.items())
                if source in kept and target in kept
            ],
        )  # fmt: skip

    def _reach(self, starts: Iterable[str], side: int) -> Iterator[str]:
        """All that can be reached along the edges (side 0) or against them (side 1)."""
        after: dict[str, list[str]] = defaultdict(list)
        for edge in self._says:
            if edge[0] in self.nodes and edge[1] in self.nodes:
                after[edge[side]].append(edge[1 - side])
        seen: set[str] = set()
        ahead = list(starts)
        while ahead:
            node = ahead.pop()
            if node not in seen:
                seen.add(node)
                yield node
                ahead += after[node]
