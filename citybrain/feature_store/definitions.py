"""What the feature store keeps: entities, views and the services that algorithms name.

Everything here is data. No on-demand or stream view is defined, because these store pickled
functions in Feast's registry, and every reader would run them.
"""

from __future__ import annotations

from typing import Any

from citybrain.core.shelf import needs

PROJECT = "citybrain"
ENTITY = "sensor"
VIEW = "sensor_history"
PUSH = "sensor_push"
PAST = "past"
SERVICES = ("traffic-flow",)
HISTORY = 288
"""Values of a series that the online store keeps: a day of five-minute steps."""

_TAGS = {"owner": "traffic", "level": "internal"}


def definitions() -> list[Any]:
    """The objects of the registry."""
    with needs():
        from feast import (
            Entity,
            FeatureService,
            FeatureView,
            Field,
            FileSource,
            PushSource,
            ValueType,
        )
        from feast.types import Array, Float32, Int64, String
    sensor = Entity(
        name=ENTITY, join_keys=[ENTITY], value_type=ValueType.STRING,
        description="A road sensor, by the name that its department gave it.",
        tags=_TAGS | {"zh": "道路传感器，以主管部门的编号为名"}, owner="traffic",
    )  # fmt: skip
    past = FileSource(  # relative to the store's folder, so that a home can be copied
        name="sensor_past", path=PAST, timestamp_field="event_timestamp",
        created_timestamp_column="created", description="Everything that was pushed.",
        tags=_TAGS | {"zh": "全部推送记录"}, owner="traffic",
    )  # fmt: skip
    push = PushSource(
        name=PUSH, batch_source=past, description="Values as departments send them.",
        tags=_TAGS | {"zh": "各部门推送的数据"}, owner="traffic",
    )  # fmt: skip
    view = FeatureView(
        name=VIEW, entities=[sensor], source=push, online=True,
        schema=[
            Field(name=ENTITY, dtype=String),
            Field(
                name="history", dtype=Array(Float32), tags={"zh": "最近的数值，由旧到新"},
                description=f"The last values, oldest first, at most {HISTORY}.",
            ),
            Field(
                name="last_time", dtype=Int64, tags={"zh": "最后一个数值的时间（Unix 秒）"},
                description="When the last value was measured, in unix seconds.",
            ),
        ],
        description="The last values of each road sensor, flow or speed, on a regular clock.",
        tags=_TAGS | {"zh": "每个道路传感器最近的流量或速度序列"}, owner="traffic",
    )  # fmt: skip
    services = [
        FeatureService(
            name=name, features=[view], owner="traffic",
            description="What the traffic forecast asks for when a call names a sensor.",
            tags=_TAGS | {"zh": "交通流量预测按传感器编号读取的特征"},
        )
        for name in SERVICES
    ]  # fmt: skip
    return [sensor, push, view, *services]


def categories_of(thing: Any) -> dict[str, str]:
    """The fields of a view, or of all views that a service joins, with their `category` tag."""
    views = getattr(thing, "feature_view_projections", None)
    if views is None:
        views = [thing] if hasattr(thing, "features") and hasattr(thing, "schema") else []
    return {
        f"{view.name}.{field.name}": field.tags["category"]
        for view in views
        for field in view.features
        if "category" in (field.tags or {})
    }
