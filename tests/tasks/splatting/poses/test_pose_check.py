import pytest

from tasks.base.errors import DatasetError
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.pose_check import check_poses
from tasks.splatting.poses.pose_facts import Facts, ModelFacts, Pair, facts_from

NAMES = [f"{index:02}.jpg" for index in range(20)]


def facts(*sizes, features=1500, inliers=200, turned=False, linked=20):
    models, start = [], 0
    for number, size in enumerate(sizes):
        models.append(ModelFacts(number, tuple(NAMES[start : start + size]), 900, 0.6, 4.0))
        start += size
    pairs = [Pair(a, b, inliers, turned) for a, b in zip(NAMES[:linked], NAMES[1:linked], strict=False)]
    return Facts(dict.fromkeys(NAMES, features), tuple(pairs), tuple(models))


def check(found, sharpness=300.0, **params):
    check_poses(found, NAMES, lambda: dict.fromkeys(NAMES, sharpness), PosesParams(**params))


def refused(found, sharpness=300.0, **params):
    with pytest.raises(DatasetError) as caught:
        check(found, sharpness, **params)
    return str(caught.value)


@pytest.mark.parametrize(
    ("size", "params"), [(10, {}), (20, {}), (3, {"min_registered": 3, "min_registered_share": 0.1})]
)
def test_enough_pictures_pass_and_nothing_is_measured(size, params):
    def never():
        raise AssertionError("sharpness was measured")

    check_poses(facts(size), NAMES, never, PosesParams(**params))


@pytest.mark.parametrize(("size", "params"), [(9, {}), (10, {"min_registered_share": 0.6}), (0, {})])
def test_the_refusal_says_how_many_of_how_many_and_both_limits(size, params):
    text = refused(facts(*([size] if size else [])), **params)
    assert text.startswith(f"{size} of 20 images could be placed ({size / 20:.0%}), need at least 10 (min_registered)")
    assert f"{params.get('min_registered_share', 0.5):.0%} (min_registered_share)" in text


@pytest.mark.parametrize(
    ("found", "sharpness", "reason"),
    [
        (facts(5), 9.0, "blurred (median sharpness 9"),
        (facts(5, features=80), 300.0, "little texture (80 features"),
        (facts(5, turned=True), 300.0, "turned on the spot"),
        (facts(5, linked=6), 300.0, "14 images have too little in common"),
        (facts(5, inliers=12), 300.0, "20 images have too little in common"),
        (facts(8, 7, 5), 300.0, "3 parts of 8, 7, 5 that nothing connects"),
        (facts(5), 300.0, "a scene that stands still"),
    ],
)
def test_each_lack_has_its_own_sentence(found, sharpness, reason):
    text = refused(found, sharpness)
    assert reason in text
    for other in {"blurred", "little texture", "on the spot", "in common", "nothing connects", "stands still"}:
        assert (other in text) == (other in reason)


def test_facts_survive_json():
    found = facts(8, 5)
    assert facts_from(found.as_json()) == found
