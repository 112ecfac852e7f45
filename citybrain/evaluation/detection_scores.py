"""Average precision of detections as COCO counts it, in memory.

The counting is faster-coco-eval's (Lin et al. 2014, https://cocodataset.org/#detection-eval):
answers are matched to truths in the order of their scores, and precision is read off at 101 points
of recall, for each class, then averaged over the classes that occur in the truth.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.core.shelf import needs

MOST_ANSWERS = 100  # in one image, the most certain ones; COCO's own limit


def average_precision(truths: list[Any], answers: list[Any], overlaps: list[float]) -> float:
    """Mean over classes and overlaps (IoU); 1 if nothing is to be found and nothing was.

    Where nothing is to be found and something was, 0: COCO itself leaves that case open.
    """
    names = sorted({thing.label for truth in truths for thing in truth.objects})
    if not names:
        return float(not any(answer.objects for answer in answers))
    with needs():
        from faster_coco_eval import COCO, COCOeval_faster
    number = {name: index for index, name in enumerate(names, 1)}
    # A bootstrap resample holds an image several times: its place in the list is its id.
    right = _annotations(truths, number)
    found = _annotations(answers, number)
    if not found:
        return 0.0
    dataset = COCO()
    dataset.dataset = {
        "images": [
            {"id": place, "width": truth.width, "height": truth.height}
            for place, truth in enumerate(truths, 1)
        ],
        "categories": [{"id": index, "name": name} for name, index in number.items()],
        "annotations": right,
    }
    dataset.createIndex()
    evaluation = COCOeval_faster(dataset, dataset.loadRes(found), "bbox")
    options = evaluation.params
    options.iouThrs = np.array(overlaps)
    options.maxDets = [MOST_ANSWERS]
    options.areaRng, options.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"]  # overlaps, recalls, classes, areas, limits
    return float(precision[precision > -1].mean())


def _annotations(items: list[Any], number: dict[str, int]) -> list[dict[str, Any]]:
    """COCO's form of all frames; classes that no truth has are left out, as COCO does."""
    rows: list[dict[str, Any]] = []
    for place, item in enumerate(items, 1):
        for thing in item.objects:
            if thing.label in number:
                left, top, right, bottom = thing.box
                wide, high = right - left, bottom - top
                rows.append({
                    "id": len(rows) + 1,
                    "image_id": place,
                    "category_id": number[thing.label],
                    "bbox": [left, top, wide, high],
                    "area": wide * high,
                    "iscrowd": 0,
                    "score": thing.score,
                })  # fmt: skip
    return rows
