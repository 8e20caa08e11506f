"""The smallest rendering that has all there is in one."""

from tasks.recognition.params import RenderParams

SMALL_RENDERING = RenderParams(
    view_size=48, train_views=3, val_views=1, test_views=1, distractor_views=1, n_distractors=2,
    scene_size=96, train_scenes=3, val_scenes=1, test_scenes=1, n_workers=1,
)  # fmt: skip
