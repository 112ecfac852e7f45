"""Average precision against cases that were counted by hand."""

import time

import pytest

from citybrain.evaluation.metric import METRICS
from citybrain.models.tasks.object_detection import DetectedObject, Detections


def picture(*things, label="vehicle"):
    return Detections([DetectedObject(label, score, box) for score, box in things], 200, 200)


HERE = (10.0, 10.0, 50.0, 50.0)
THERE = (100.0, 100.0, 140.0, 140.0)
NOWHERE = (150.0, 10.0, 190.0, 50.0)


def map50(truths, answers):
    return METRICS.get("map50").score(truths, answers)


def test_perfect_answers_score_one():
    truth = [picture((1.0, HERE), (1.0, THERE))]
    assert map50(truth, [picture((0.6, HERE), (0.9, THERE))]) == pytest.approx(1.0)


def test_a_case_counted_by_hand():
    # Two images, three vehicles. In the order of the scores: hit, miss, hit; one is never found.
    # Precision 1 up to recall 1/3 (34 of the 101 points: 0.00 to 0.33), 2/3 up to recall 2/3
    # (33 points: 0.34 to 0.66), 0 beyond: (34 + 33 * 2/3) / 101.
    truths = [picture((1.0, HERE), (1.0, THERE)), picture((1.0, HERE))]
    answers = [picture((0.9, HERE), (0.8, NOWHERE)), picture((0.7, HERE))]
    assert map50(truths, answers) == pytest.approx((34 + 33 * 2 / 3) / 101)


def test_a_double_of_a_vehicle_that_was_found_counts_as_wrong():
    # Miss before the second hit: precision 1 up to recall 1/2 (51 points), then 2/3 (50 points).
    truth = [picture((1.0, HERE), (1.0, THERE))]
    answer = [picture((0.9, HERE), (0.8, HERE), (0.7, THERE))]
    assert map50(truth, answer) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_half_overlap_hits_and_less_misses():
    truth = [picture((1.0, (0.0, 0.0, 40.0, 40.0)))]
    half = [picture((0.9, (0.0, 0.0, 40.0, 20.1)))]
    less = [picture((0.9, (0.0, 0.0, 40.0, 19.9)))]
    assert map50(truth, half) == pytest.approx(1.0)
    assert map50(truth, less) == 0.0


def test_tight_frames_are_asked_for_by_the_stricter_metric():
    truth = [picture((1.0, (0.0, 0.0, 100.0, 100.0)))]
    answer = [picture((0.9, (0.0, 0.0, 100.0, 72.0)))]  # hits at 0.50, 0.55, 0.60, 0.65, 0.70
    assert METRICS.get("map50-95").score(truth, answer) == pytest.approx(0.5)


def test_each_class_weighs_the_same():
    truth = [Detections([DetectedObject("car", 1.0, HERE), DetectedObject("bus", 1.0, THERE),
                         DetectedObject("bus", 1.0, NOWHERE)], 200, 200)]  # fmt: skip
    answer = [picture((0.9, HERE), label="car")]
    assert map50(truth, answer) == pytest.approx(0.5)


def test_a_class_that_no_truth_has_changes_nothing():
    truth = [picture((1.0, HERE))]
    answer = [Detections([DetectedObject("vehicle", 0.9, HERE), DetectedObject("dog", 0.99, THERE)],
                         200, 200)]  # fmt: skip
    assert map50(truth, answer) == pytest.approx(1.0)


def test_nothing_to_find_is_right_only_when_nothing_was_found():
    assert map50([picture()], [picture()]) == 1.0
    assert map50([picture()], [picture((0.5, HERE))]) == 0.0
    assert map50([picture((1.0, HERE))], [picture()]) == 0.0


def test_a_resample_with_the_same_image_several_times_counts_each():
    good, bad = picture((0.9, HERE)), picture((0.8, THERE))
    truth = picture((1.0, HERE))
    assert map50([truth] * 4, [good, bad, bad, bad]) < map50([truth] * 4, [good, good, good, bad])


def test_an_interval_of_sixty_images_does_not_take_long():
    truths = [picture((1.0, HERE), (1.0, THERE)) for _ in range(60)]
    answers = [picture((0.9, HERE), (0.5, NOWHERE), (0.4, THERE)) for _ in range(60)]
    map50(truths, answers)
    started = time.process_time()
    for _ in range(10):
        map50(truths, answers)
    assert (time.process_time() - started) / 10 < 0.1
