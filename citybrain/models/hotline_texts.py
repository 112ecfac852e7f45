"""Generated texts of a 12345 city hotline, each with the department that took it.

A seeded grammar: place, thing and complaint in a spoken or a written frame, with fillers, slips
of the tongue, homophones and typing errors. The parts train and test share no pairs of thing and
complaint, no openings and endings and no names of places; one complaint of every second group
occurs only in test. Some texts are uncertain by nature, with labels drawn as clerks would differ:
complaints between two departments, two complaints in one call, and calls that say nothing of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from citybrain.models.hotline_phrases import BORDERLINE, ISSUES, LOAD, TITLES, VAGUE

Rng = np.random.Generator
Thing = TypeVar("Thing")
SHORT = 26
"""Characters up to which a text counts as short in the tag `length`."""
KINDS = {"clear": 0.78, "borderline": 0.07, "mixed": 0.09, "vague": 0.06}

DISTRICTS = ("云溪", "南桥", "东湖", "北苑", "西岭", "江湾", "高新", "临港", "青山", "望江")
ROADS = (
    "和平路", "建设路", "人民路", "学院路", "滨河路", "长兴街", "解放大道", "枫林路", "新华街",
    "光明路", "石桥街", "迎宾大道", "梧桐路", "体育场路", "沿江路", "红星街",
)  # fmt: skip
SPOTS = (
    "小区", "菜市场", "学校", "医院", "公园", "工地", "地铁口", "写字楼", "工业园", "汽车站", "商场",
    "村委会",
)  # fmt: skip
ESTATES = (
    "锦绣",
    "阳光",
    "金色",
    "翠竹",
    "银河",
    "幸福",
    "丽景",
    "康乐",
    "紫荆",
    "福田",
    "桂花",
    "兰亭",
)
SIDES = ("门口", "附近", "旁边", "后面", "对面", "东门", "西侧", "这边", "")

OPENINGS = {
    "spoken": (
        "喂你好，", "你好，我想反映一下，", "那个，", "我跟你讲，", "唉，就是说，", "您好，麻烦问一下，", "哎你好，", "我要投诉，",
        "是这样的，", "我就想说，", "师傅你好，", "不好意思，我想说个事，", "你们管不管呀，", "", "", "",
    ),
    "written": (
        "您好，", "尊敬的领导：", "现反映，", "本人系附近居民，", "反映：", "市民来电反映，", "投诉内容：", "我是一名普通市民，",
        "各位领导好！", "诉求如下：", "关于以下问题投诉：", "群众反映，", "", "",
    ),
}  # fmt: skip
MIDDLES = {
    "spoken": (
        "都好几天了", "跟他们说也没用", "我都打了好几次电话了", "真的受不了了", "一家老小都跟着遭罪", "我妈都气病了", "谁都不理我",
        "我们这一片都这样", "昨天又是这样", "前前后后快一个月了", "邻居们都有意见", "拍了照片也没人看",
        "他们说爱找谁找谁", "我也是没有办法了",
    ),
    "written": (
        "该情况已持续数月", "严重影响周边居民正常生活", "多次沟通无果", "至今未得到解决", "居民意见很大", "此前曾致电反映但未有回复",
        "存在较大安全隐患", "有现场照片为证", "涉及几十户家庭", "已造成一定经济损失", "相关人员态度敷衍",
        "经协商对方拒不配合",
    ),
}  # fmt: skip
WHEN = {
    "spoken": (
        "上个月", "国庆那会儿", "从前天晚上", "过完年", "去年冬天", "大前天", "打从搬来那天", "礼拜三早上", "入夏以后", "这两个礼拜",
        "从星期一", "半年前", "我妈住院那会", "刚开学", "双休日",
    ),
    "written": (
        "自三月起", "上周以来", "自2023年底", "国庆假期期间", "近半年", "六月中旬以来", "自入住以来", "每逢周末", "今年春节后", "连续三周",
        "每日凌晨", "从去年下半年开始", "本月初", "暑期以来", "每天早晚",
    ),
}  # fmt: skip
WHAT = {
    "spoken": (
        "就开始这样了", "我就说过一回", "来过两个人看了看又走了", "到今天还是老样子", "说给我弄结果骗我", "有人来问过就没下文了", "越来越厉害",
        "天天都得碰上", "我儿子也去说过", "弄得大家都睡不好", "拖到现在", "对面那户也说了",
    ),
    "written": (
        "持续出现该问题", "未见任何改善", "已有多名居民反映", "曾有工作人员到场但未处理", "情况愈发严重", "多次承诺整改均未落实", "给老人小孩带来不便",
        "双方协商未达成一致", "始终无人负责", "已拨打热线三次", "相关负责人拒绝沟通", "反复出现",
    ),
}  # fmt: skip
CLOSINGS = {
    "spoken": (
        "你们赶紧来看看吧", "麻烦给解决一下", "到底有没有人管啊", "帮我记一下好吧", "什么时候能处理啊", "谢谢啊", "我等你们回话",
        "这要找谁呀", "能不能派个人来", "该怎么办呢", "管一管行不行", "", "", "",
    ),
    "written": (
        "望有关部门核查处理。", "请予以答复。", "恳请尽快解决。", "希望得到妥善处理。", "请依法查处。", "盼复。", "要求给出书面答复。",
        "请相关单位介入协调。", "希望引起重视。", "请核实。", "", "",
    ),
}  # fmt: skip
JOINS = ("另外", "还有就是", "顺便说一下", "对了", "再一个", "同时", "除此之外", "还想问")
FILLERS = ("嗯", "那个", "就是", "然后", "这个", "呃", "吧", "你知道吧", "反正")
# Homophones as input methods and speech recognition produce them.
SLIPS = {
    "的": "得地", "得": "的", "在": "再", "再": "在", "做": "作", "已": "以", "那": "哪", "他": "她它", "吗": "嘛",
    "没": "每", "路": "录", "车": "彻", "费": "废", "管": "馆", "修": "休", "工": "公", "水": "睡", "电": "店", "店": "电",
    "业": "页", "交": "叫", "退": "腿", "气": "汽", "查": "察", "报": "抱", "资": "姿", "厂": "场", "证": "正",
    "校": "效", "医": "一", "院": "愿", "师": "失", "钱": "前", "坏": "怀", "停": "听", "收": "手",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One generated text."""

    text: str
    label: str
    length: str
    style: str
    clarity: str


def make_calls(count: int, *, seed: int, test: bool) -> list[Call]:
    """Texts of one part, no two of them equal; equal seeds give equal texts."""
    rng = np.random.default_rng([seed, 2 if test else 1])
    found: dict[str, Call] = {}
    while len(found) < count:
        call = _call(rng, test)
        found.setdefault(call.text, call)
    return list(found.values())


@cache
def pairs(department: str, *, test: bool) -> tuple[tuple[str, str], ...]:
    """The pairs of thing and complaint that this part may use."""
    mine = []
    for number, group in enumerate(ISSUES[department]):
        things, complaints = (half.split() for half in group.split("|"))
        for i, thing in enumerate(things):
            for j, complaint in enumerate(complaints):
                new = number % 2 == 0 and j == len(complaints) - 1
                held_back = new or (i + j) % 4 == 0
                if held_back == test:
                    mine.append((thing, complaint))
    return tuple(mine)


def _call(rng: Rng, test: bool) -> Call:
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    style = "spoken" if rng.random() < 0.6 else "written"
    label = _department(rng)
    if kind == "vague":
        core = _part(VAGUE, rng, test)
    elif kind == "borderline":
        first, second, share, texts = BORDERLINE[int(rng.integers(len(BORDERLINE)))]
        label = first if rng.random() < share else second
        core = _place(rng, test) + _pick(rng, texts.split())
    else:
        core = _issue(rng, label, test, style)
    if kind == "mixed":
        other = _department(rng)
        join = _part(JOINS, rng, test)
        core += f"，{join}{''.join(_pick(rng, pairs(other, test=test)))}"
        # Mostly the first complaint decides; now and then the clerk takes the second.
        label = label if rng.random() < 0.85 else other
    text = _frame(rng, core, style, test)
    if style == "spoken":
        text = _spoken(rng, text)
    text = _slips(rng, text, 0.012 if style == "written" else 0.025)
    return Call(text, label, "short" if len(text) <= SHORT else "long", style, kind)


def _issue(rng: Rng, label: str, test: bool, style: str) -> str:
    thing, complaint = _pick(rng, pairs(label, test=test))
    place = _place(rng, test) if rng.random() < 0.7 else ""
    shape = rng.random()
    if shape < 0.70:
        return f"{place}{'的' if place and rng.random() < 0.3 else ''}{thing}{complaint}"
    if shape < 0.85:
        return f"{complaint}，{'就是' if style == 'spoken' else ''}{place}{thing}"
    return f"{thing}{complaint}" + (f"，在{place}" if place else "")


def _frame(rng: Rng, core: str, style: str, test: bool) -> str:
    text = _part(OPENINGS[style], rng, test) + core
    said: set[str] = set()
    for _ in range(int(rng.choice(3, p=[0.45, 0.35, 0.2]))):
        middle = (
            _history(rng, style, test) if rng.random() < 0.6 else _part(MIDDLES[style], rng, test)
        )
        text += "" if middle in said else f"，{middle}"
        said.add(middle)
    closing = _part(CLOSINGS[style], rng, test)
    return f"{text}，{closing}" if closing else text


def _history(rng: Rng, style: str, test: bool) -> str:
    """Since when, and what happened; the two parts share the words and not the pairs."""
    while True:
        i, j = int(rng.integers(len(WHEN[style]))), int(rng.integers(len(WHAT[style])))
        if ((i + j) % 3 == 0) == test:
            return WHEN[style][i] + WHAT[style][j]


def _place(rng: Rng, test: bool) -> str:
    shape = rng.random()
    spot = SPOTS[int(rng.integers(len(SPOTS)))]
    side = SIDES[int(rng.integers(len(SIDES)))]
    if shape < 0.3:
        return f"{_part(ESTATES, rng, test)}{_pick(rng, ('花园', '小区', '苑', '新村'))}{side}"
    if shape < 0.6:
        return f"{_part(ROADS, rng, test)}{int(rng.integers(1, 400))}号{side}"
    if shape < 0.8:
        return f"{_part(DISTRICTS, rng, test)}区{_part(ROADS, rng, test)}{spot}{side}"
    return f"我们{spot}{side}"


def _spoken(rng: Rng, text: str) -> str:
    """Fillers between clauses and words said twice."""
    clauses = text.split("，")
    for index in range(len(clauses)):
        if rng.random() < 0.15:
            clauses[index] = _pick(rng, FILLERS) + clauses[index]
    text = (" " if rng.random() < 0.1 else "，" if rng.random() < 0.8 else "").join(clauses)
    if len(text) > 8 and rng.random() < 0.15:
        at = int(rng.integers(1, len(text) - 2))
        text = text[:at] + text[at - 1 : at + 1] + text[at:]
    return text


def _slips(rng: Rng, text: str, rate: float) -> str:
    """Homophones, dropped, doubled and swapped characters."""
    letters: list[str] = []
    for letter in text:
        chance = rng.random()
        if chance < 2 * rate and letter in SLIPS:
            letters.append(_pick(rng, tuple(SLIPS[letter])))
        elif chance < rate * 0.3:
            continue
        elif chance > 1 - rate * 0.2:
            letters += [letter, letter]
        elif chance > 1 - rate * 0.5 and letters:
            letters.insert(-1, letter)
        else:
            letters.append(letter)
    return "".join(letters).strip() or text


def _department(rng: Rng) -> str:
    return str(rng.choice(list(TITLES), p=list(LOAD)))


def _pick(rng: Rng, values: Sequence[Thing]) -> Thing:
    return values[int(rng.integers(len(values)))]


def _part(values: Sequence[str], rng: Rng, test: bool) -> str:
    """One of the values that belong to this part: every third is the test's (and the empty one)."""
    mine = [value for i, value in enumerate(values) if not value or (i % 3 == 2) == test]
    return _pick(rng, mine)
