"""What a recognition renders follows from what it trains."""

from tasks.recognition.params import MethodParams, RenderParams

SOME = RenderParams(train_views=5, val_views=1, test_views=1, distractor_views=2, train_scenes=3, n_distractors=4)


def test_no_scenes_are_rendered_for_an_index_and_no_views_for_a_detector():
    assert MethodParams().needed(SOME) == SOME
    only_index = MethodParams(detector=False).needed(SOME)
    assert (only_index.train_scenes, only_index.val_scenes, only_index.test_scenes) == (0, 0, 0)
    assert (only_index.train_views, only_index.distractor_views) == (5, 2)
    only_detector = MethodParams(index=False).needed(SOME)
    assert (only_detector.train_views, only_detector.val_views, only_detector.test_views) == (0, 0, 0)
    assert (only_detector.distractor_views, only_detector.n_distractors, only_detector.train_scenes) == (0, 4, 3)
