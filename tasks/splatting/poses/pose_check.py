"""Refuses poses that are not worth training on, and says how to record a better video."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from tasks.base.errors import DatasetError
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.pose_facts import Facts

FEW_FEATURES = 200  # per image: walls, sky, darkness
FEW_INLIERS = 30  # COLMAP needs as many to place an image among the points
BLURRED = 25.0  # variance of the Laplacian of a 480 px copy; sharp images have some hundreds


def check_poses(
    facts: Facts, names: Sequence[str], sharpness: Callable[[], Mapping[str, float]], params: PosesParams
) -> None:
    """Return when enough images have a pose.

    Args:
        facts: what COLMAP found.
        names: of all images.
        sharpness: measures each, as `sharpness.look` does; called only to say what is wrong.
        params: the limits.

    Raises:
        DatasetError: too few have; the message says how many, what the images lack, and what to film better.
    """
    registered = len(facts.models[0].names) if facts.models else 0
    needed = max(params.min_registered, params.min_registered_share * len(names))
    if registered >= needed:
        return
    found = (
        f"{registered} of {len(names)} images could be placed ({registered / len(names):.0%}), need at least "
        f"{params.min_registered} (min_registered) and {params.min_registered_share:.0%} (min_registered_share)"
    )
    raise DatasetError(". ".join([found, *_reasons(facts, names, sharpness())]))


def _reasons(facts: Facts, names: Sequence[str], sharpness: Mapping[str, float]) -> list[str]:
    """Return what is wrong with the images, as far as it can be told, the likeliest first."""
    reasons = []
    features = median(facts.n_features.get(name, 0) for name in names)
    blur = median(sharpness.values())
    solid = [pair for pair in facts.pairs if pair.inliers >= FEW_INLIERS]
    linked = {name for pair in solid for name in (pair.first, pair.second)}
    if blur < BLURRED:
        reasons.append(
            f"The images are blurred (median sharpness {blur:.0f}, sharp ones have over 100): move slower, hold the "
            "focus, film with more light"
        )
    if features < FEW_FEATURES:
        reasons.append(
            f"They show little texture ({features:.0f} features an image, need some hundreds): avoid bare walls, "
            "glass and darkness, put something patterned into the scene"
        )
    if solid and sum(pair.turned_only for pair in solid) > len(solid) / 2:
        reasons.append(
            "The camera turned on the spot, or saw one flat thing only: walk around the scene, so that near things "
            "move against far ones"
        )
    if len(names) - len(linked) > len(names) / 4:
        reasons.append(
            f"{len(names) - len(linked)} images have too little in common with any other: take more images "
            "(n_frames), film slower, let neighbours overlap by two thirds"
        )
    if len(facts.models) > 1:
        parts = ", ".join(str(len(model.names)) for model in facts.models)
        reasons.append(
            f"The images fall into {len(facts.models)} parts of {parts} that nothing connects: film in one go, "
            "and come back to where you began"
        )
    if not reasons:
        reasons.append(
            "Neighbouring images match, but no common geometry was found: film a scene that stands still, from "
            "several sides, without zooming"
        )
    return reasons
