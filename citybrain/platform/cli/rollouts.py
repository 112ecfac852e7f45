"""The commands `traffic` and `canary`: how a release meets live calls."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from pydantic import ValidationError

from citybrain.core.errors import InvalidInput
from citybrain.core.names import parse_ref
from citybrain.core.schemas import Canary, Comparison, NewCanary, NewTraffic, Share, Traffic
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    plain,
    progress,
    reason_of,
    screen,
    show_json,
    show_table,
)
from citybrain.sdk import CityBrain


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(traffic)
    app.command()(canary)


def traffic(
    name: Annotated[str, typer.Argument(help="The algorithm.")],
    split: Annotated[
        list[str] | None, typer.Option(help="TARGET=PERCENT; repeat until it adds up to 100.")
    ] = None,
    shadow: Annotated[
        str, typer.Option(help="TARGET=PERCENT: gets copies; its answers reach nobody.")
    ] = "",
    fallback: Annotated[
        list[str] | None, typer.Option(help="TARGET to ask when a deployment fails; repeat.")
    ] = None,
    fallback_ms: Annotated[
        int, typer.Option(help="Ask it, too, after so long without an answer; 0: after failures.")
    ] = 0,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="All calls to champion again.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Is one side better? And what did the shadow answer?")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Share an algorithm's calls among its deployments, or show how they are shared.

    Example: `citybrain traffic flow --split champion=90 --split challenger=10`, or
    `citybrain traffic flow --shadow challenger=20`, then `citybrain traffic flow --report`
    """
    with client() as city:
        if report:
            _show_report(city, name, json=json)
            return
        if clear or split or shadow or fallback:
            found = city.set_traffic(name, _plan(split, shadow, fallback, fallback_ms))
        else:
            found = city.traffic(name)
    if json:
        show_json(found)
    else:
        _show_traffic(found)


def canary(
    target: Annotated[
        str, typer.Argument(help="NAME@version or NAME@alias; NAME alone: show; nothing: show all.")
    ] = "",
    base: Annotated[str, typer.Option(help="The deployment that answers the rest.")] = "champion",
    steps: Annotated[str, typer.Option(help="Percent of the calls, growing.")] = "5,25,50,100",
    seconds: Annotated[float, typer.Option(help="Least seconds of a step.")] = 60,
    calls: Annotated[int, typer.Option(help="Least calls of a step.")] = 50,
    error_margin: Annotated[float, typer.Option(help="By how much more it may fail.")] = 0.02,
    latency_ratio: Annotated[float, typer.Option(help="How many times as slow it may be.")] = 2.0,
    *,
    fallback: Annotated[
        bool,
        typer.Option("--fallback", help="The base answers where it fails; it fails all the same."),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Is it better than the base, or is it chance?")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Take it back now.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it ends.")] = False,
    json: JsonFlag = False,
) -> None:
    """Try a release on a growing part of the calls; it goes back by itself when it is worse.

    It is deployed first if it does not run. When all steps are passed, promote it:
    `citybrain promote NAME`.

    Example: `citybrain canary traffic-flow@7 --steps 10,50,100 --seconds 300`, then
    `citybrain canary traffic-flow --report`
    """
    if not target:
        with client() as city:
            _show_canaries(city.canaries(), json=json)
        return
    ref = parse_ref(target)
    with client() as city:
        if stop:
            found = city.stop_canary(ref.algorithm)
        elif report:
            _show_comparisons(city.comparison(ref.algorithm), json=json)
            return
        elif not ref.target:
            past = city.canaries(ref.algorithm)
            if json:
                show_json(past)
            else:
                for one in past[:5]:
                    _show_canary(one)
                if not past:
                    screen.print(f"{ref.algorithm} had no canary. Try: citybrain canary {ref}@7")
            return
        else:
            try:
                plan = NewCanary(
                    target=ref.target, base=base, steps=[float(step) for step in steps.split(",")],
                    seconds=seconds, calls=calls, error_margin=error_margin,
                    latency_ratio=latency_ratio, fallback=fallback,
                )  # fmt: skip
            except (ValidationError, ValueError) as error:
                raise InvalidInput(reason_of(error)) from error
            with progress(f"starting {ref}", hidden=json) as watch:
                running = {(d.algorithm, d.target) for d in city.deployments() if d.running}
                if (ref.algorithm, ref.target) not in running:
                    city.deploy(ref.algorithm, ref.target)
                watch(1.0, "started")
            found = city.canary(ref.algorithm, plan)
            if wait:
                with progress(f"trying {ref}", hidden=json) as watch:
                    while found.state == "running":
                        watch(found.percent / 100, f"{found.percent:g} % of the calls")
                        time.sleep(0.5)
                        found = city.canaries(ref.algorithm)[0]
    if json:
        show_json(found)
    else:
        _show_canary(found)
    if found.state == "rolled-back":
        raise typer.Exit(1)


def _plan(
    split: list[str] | None, shadow: str, fallback: list[str] | None, fallback_ms: int
) -> NewTraffic:
    try:
        one = _share(shadow) if shadow else None
        return NewTraffic(
            split=[_share(text) for text in split or []],
            shadow=one.target if one else "", shadow_percent=one.percent if one else 0,
            fallback=fallback or [], fallback_ms=fallback_ms,
        )  # fmt: skip
    except ValidationError as error:
        raise InvalidInput(reason_of(error)) from error


def _share(text: str) -> Share:
    target, equals, percent = text.partition("=")
    try:
        if equals:
            return Share(target=target, percent=float(percent))
    except ValueError:
        pass
    raise InvalidInput(f"{text[:60]!r} is not TARGET=PERCENT.", hint="Like: champion=90")


def _show_traffic(found: Traffic) -> None:
    if found.canary:
        screen.print(f"The canary {found.canary} moves this split.")
    show_table(f"Calls of {found.algorithm}", ["target", "calls", "role"], traffic_rows(found))


def traffic_rows(found: Traffic) -> list[list[str]]:
    """Target, calls and role of each deployment that a plan names."""
    answers = f"answers, canary {found.canary}" if found.canary else "answers"
    rows = [[share.target, f"{share.percent:g} %", answers] for share in found.split]
    rows = rows or [["champion", "100 %", "answers"]]
    if found.shadow:
        rows.append([found.shadow, f"{found.shadow_percent:g} %", "shadow"])
    after = f"fallback after {found.fallback_ms} ms" if found.fallback_ms else "fallback"
    return rows + [[target, "", after] for target in found.fallback]


def _show_canary(found: Canary) -> None:
    show_table(
        f"{found.algorithm}@{found.target} (version {found.version}): {found.state}",
        ["when", "calls", "why"],
        [[plain(step.at), f"{step.percent:g} %", step.says] for step in found.log],
    )


def _show_canaries(found: list[Canary], *, json: bool) -> None:
    if json:
        show_json(found)
        return
    rows = [
        [f"{one.algorithm}@{one.target}", one.version, one.state, f"{one.percent:g} %",
         plain(one.moved_at), one.log[-1].says]
        for one in found[:20]
    ]  # fmt: skip
    columns = ["release", "version", "state", "calls", "since", "why"]
    empty = "No release was tried yet. Try: citybrain canary NAME@7"
    show_table("Canaries", columns, rows, empty=empty)


def _show_comparisons(found: list[Comparison], *, json: bool) -> None:
    if json:
        show_json(found)
        return
    for one in found:
        until = plain(one.until) or "now"
        show_table(
            f"{one.algorithm} from {plain(one.since)} to {until}",
            ["target", "version", "calls", "failed", "median ms", "95 % below ms"],
            [[s.target, s.version, s.calls, s.failed, f"{s.p50_ms:.2f}", f"{s.p95_ms:.2f}"]
             for s in (one.base, one.other)],
        )  # fmt: skip
        for difference in (one.failures, one.latency):
            screen.print(f"{difference.says}.")


def _show_report(city: CityBrain, name: str, *, json: bool) -> None:
    """The sides of a split, if there is one, and the shadow."""
    shared = len(city.traffic(name).split) > 1
    split = city.comparison(name) if shared else []
    shadow = city.shadow(name)
    if json:
        show_json({"split": plain(split), "shadow": shadow})
        return
    _show_comparisons(split, json=False)
    if shadow["pairs"] or not shared:
        _show_shadow(shadow)


def _show_shadow(found: dict[str, object]) -> None:
    screen.print(
        f"{found['agreeing']} of {found['compared']} answers agree; the shadow failed "
        f"{found['shadow_failed']} times; mean difference {found['mean_difference']:.3g}, "
        f"95 % below {found['p95_difference']:.3g}."
    )
    worst = found["most_different"]
    assert isinstance(worst, list)
    show_table(
        "Most different", ["request", "difference", "answer", "shadow"],
        [[w["request_id"], w["difference"], str(w["answer"])[:60], str(w["shadow"])[:60]]
         for w in worst[:10]],
    )  # fmt: skip
