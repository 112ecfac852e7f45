"""The console's texts: both languages say the same things, and every text that is used exists."""

import re
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from citybrain.core.schemas import Deployment, PlatformStatus, Role
from citybrain.core.schemas.grants import RequestState, Stoppable
from citybrain.core.schemas.quotas import Per, Unit
from citybrain.models.package import Domain
from citybrain.models.task import TASKS
from citybrain.platform.console import texts as module
from citybrain.platform.console.texts import LANGUAGES, choose, say, texts, verdict, word

CONSOLE = Path(module.__file__).parent
TEMPLATES = sorted((CONSOLE / "templates").glob("*.html"))
SCRIPTS = sorted((CONSOLE / "static").glob("*.js"))


def test_both_languages_have_the_same_keys():
    assert texts("zh").keys() == texts("en").keys()


def test_texts_are_texts_and_take_the_same_values_in_both_languages():
    for key, chinese in texts("zh").items():
        english = texts("en")[key]
        assert isinstance(chinese, str) and isinstance(english, str), key
        names = [
            {name for _, name, _, _ in Formatter().parse(t) if name} for t in (chinese, english)
        ]
        assert names[0] == names[1], key


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_text_of_a_template_exists(path):
    source = path.read_text("utf-8")
    used = set(re.findall(r"""\bt\(["']([a-z_.]+)["'][,)]""", source))
    used |= {"signature.inputs", "call.curl"} if path.name == "algorithm.html" else set()
    used |= set(re.findall(r"""["'](nav\.[a-z_]+)["']""", source))
    assert not used - texts("en").keys()


def test_every_text_of_a_script_exists():
    used = {key for path in SCRIPTS for key in re.findall(r'"(js\.[a-z0-9_]+)"', path.read_text())}
    assert used <= texts("en").keys()
    assert {key for key in texts("en") if key.startswith("js.")} == used


def test_no_text_is_written_that_nothing_uses():
    everything = "".join(path.read_text("utf-8") for path in [*TEMPLATES, *SCRIPTS])
    everything += "".join(path.read_text("utf-8") for path in CONSOLE.glob("*.py"))
    kinds = ("domain.", "task.", "state.", "ray.", "role.", "alias.", "approval.", "source.")
    kinds += ("level.", "lineage.", "form.", "canary.", "tier.", "unit.", "per.", "request.")
    kinds += ("stoppable.", "outcome.", "door.", "notice.")
    kinds += ("signature.", "call.", "evaluation.main")
    unused = [k for k in texts("en") if k not in everything and not k.startswith(kinds)]
    assert unused == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_domain_task_state_and_role_has_a_word(language):
    def values(schema, field):
        return get_args(schema.model_fields[field].annotation)

    wanted = [f"domain.{name}" for name in get_args(Domain)]
    wanted += [f"task.{name}" for name in TASKS.names()]
    wanted += [f"state.{name}" for name in values(Deployment, "state")]
    wanted += [f"ray.{name}" for name in values(PlatformStatus, "ray")]
    wanted += [f"role.{name}" for name in get_args(Role)]
    wanted += [f"unit.{name}" for name in get_args(Unit)]
    wanted += [f"per.{name}" for name in get_args(Per)]
    wanted += [f"request.{name}" for name in get_args(RequestState)]
    wanted += [f"stoppable.{name}" for name in get_args(Stoppable)]
    assert [key for key in wanted if key not in texts(language)] == []


def test_a_plug_in_without_a_word_is_shown_by_its_own_name():
    assert word("zh", "task", "segmentation") == "segmentation"


def test_a_text_takes_values():
    assert say("en", "try.metered", department="tourism") == "Metered on tourism"


@pytest.mark.parametrize(
    ("cookie", "accepted", "expected"),
    [
        ("en", "zh-CN", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "en-GB,en;q=0.9,zh;q=0.2", "en"),
        ("", "de;q=1, zh-TW;q=0.5, en;q=0.4", "zh"),
        ("", "fr", "en"),
        ("", "", "zh"),
        ("<script>", "q=;;,zh;q=nan", "zh"),
    ],
)
def test_the_chosen_language_wins_over_the_browsers(cookie, accepted, expected):
    assert choose(cookie, accepted) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "mae on part=peak is 10.36, wanted better than the baseline's 9.595 by 2",
            "part=peak 的 mae 为 10.36，要求优于基线的 9.595 至少 2",
        ),
        (
            "coverage is 0.7511, wanted at least 0.7 and at most 0.9",
            "coverage 为 0.7511，要求不低于 0.7，且不高于 0.9",
        ),
        ("map50 on light=night could not be measured", "light=night 的 map50 无法测得"),
        ("promotion 4b34 (self-approved)", "晋级 4b34 （自行批准）"),
        ("promotion 4b34 from staging", "晋级 4b34，取自 staging"),
        ("withdrawn", "版本已撤回"),
        ("rollback from 3", "从版本 3 回退"),
        ("set by plain MLflow", "由 MLflow 直接设置"),
        ("20 of 30 calls failed, 0.5% before it", "30 次调用中失败 20 次，此前失败率为 0.5%"),
        ("p95 90.0 ms, 9.0 ms before it", "p95 延迟 90.0 ms，此前为 9.0 ms"),
        (
            "60 calls, 1 failed, median 4.1 ms (4.0 before it)",
            "60 次调用，失败 1 次，中位延迟 4.1 ms（此前为 4.0）",
        ),
        ("something that nobody foresaw", "something that nobody foresaw"),
    ],
)
def test_recorded_sentences_are_read_in_chinese(sentence, expected):
    assert verdict("zh", sentence) == expected
    assert verdict("en", sentence) == sentence


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_carries_script_or_style_of_its_own(path):
    source = path.read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", source)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|hx-on|\|\s*safe\b", source)
    assert not re.search(r"""(src|href)=["'](https?:)?//""", source)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_reads_text_as_html_or_code(path):
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function",
        path.read_text(),
    )
