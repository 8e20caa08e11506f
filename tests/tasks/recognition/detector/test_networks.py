import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou, generalized_box_iou

from tasks.recognition.detector.networks import _overlaps, build
from tests.far_device import FAR, Far

D_FINE = {
    "model_type": "d_fine",
    "backbone_config": {
        "model_type": "hgnet_v2",
        "depths": [1, 1, 1, 1],
        "embedding_size": 8,
        "hidden_sizes": [16, 16, 32, 32],
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 16, 32],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 32, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 32, 32],
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": 10,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 4,
}
RF_DETR = {
    "model_type": "rf_detr",
    "backbone_config": {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "patch_size": 16,
        "num_windows": 2,
        "image_size": 64,
        "out_features": ["stage2", "stage4"],
        "window_block_indexes": [0, 2],
    },
    "d_model": 32,
    "num_queries": 10,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "group_detr": 2,
}
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 30, 40]]), "labels": torch.tensor([1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def config(network, **extra):
    return {"network": network, "classes": ["a", "b", "c"], "image_size": 64, **extra}


@pytest.mark.parametrize(
    "of",
    [
        config("fcos_small"),
        config("ssdlite320_mobilenet_v3_large"),
        config("fasterrcnn_mobilenet_v3_large_320_fpn"),
        config("d_fine", transformers=D_FINE, mean=[0, 0, 0], std=[1, 1, 1]),
        config("rf_detr", transformers=RF_DETR, mean=[0.5] * 3, std=[0.2] * 3),
    ],
    ids=lambda of: of["network"],
)
def test_every_network_gives_losses_with_gradients_and_detections(of):
    torch.manual_seed(0)
    model = build(of).train()
    images = torch.rand(2, 3, 64, 64)
    losses = model.losses(images, TARGETS)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    moved = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters() if p.requires_grad]
    assert sum(moved) > 0.5 * len(moved)
    with torch.inference_mode():
        found = model.eval().find(images)
    assert len(found) == 2
    for row in found:
        assert row["boxes"].shape == (len(row["scores"]), 4)
        assert row["labels"].dtype == torch.int64
        assert set(row["labels"].tolist()) <= {0, 1, 2}
        assert ((row["boxes"] >= 0) & (row["boxes"] <= 64)).all()


@pytest.mark.parametrize(
    "of",
    [
        config("d_fine", transformers=D_FINE, mean=[0, 0, 0], std=[1, 1, 1]),
        config("rf_detr", transformers=RF_DETR, mean=[0.5] * 3, std=[0.2] * 3),
    ],
    ids=lambda of: of["network"],
)
def test_networks_of_transformers_have_all_they_compute_with_on_the_device(of):
    with Far():
        model = build(of).to(FAR).train()
        images = torch.rand(2, 3, 64, 64).to(FAR)
        targets = [{name: value.to(FAR) for name, value in row.items()} for row in TARGETS]
        losses = model.losses(images, targets)
        sum(losses.values()).backward()
        assert {value.device for value in losses.values()} == {FAR}
        found = model.eval().find(images)
        assert {value.device for row in found for value in row.values()} == {FAR}


@pytest.mark.parametrize(
    "of",
    [
        {**config("fcos_small"), "image_size": 640},
        {**config("ssdlite320_mobilenet_v3_large"), "image_size": 640},
        {**config("fasterrcnn_mobilenet_v3_large_320_fpn"), "image_size": 640},
        config("d_fine", transformers=D_FINE, mean=[0, 0, 0], std=[1, 1, 1]),
        config("rf_detr", transformers=RF_DETR, mean=[0.5] * 3, std=[0.2] * 3),
    ],
    ids=lambda of: of["network"],
)
def test_boxes_are_finer_than_the_steps_of_bf16(of):
    torch.manual_seed(0)
    model, size = build(of).eval(), of["image_size"]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        boxes = model.find(torch.rand(1, 3, size, size))[0]["boxes"]
    inside = boxes[(boxes > size / 8) & (boxes < size - 0.01)]
    assert len(inside) > 5
    assert (inside == inside.bfloat16().float()).float().mean() < 0.5


def scene_boxes(generator, n, size):
    low = torch.rand(n, 2, generator=generator) * size * 0.8
    return torch.cat([low, low + 4 + torch.rand(n, 2, generator=generator) * size * 0.6], dim=1)


def test_places_are_matched_with_parts_as_torchvision_does_it():
    generator, size = torch.Generator().manual_seed(3), 128
    model = build({**config("fcos_small"), "image_size": size}).network
    rows = [
        {"boxes": scene_boxes(generator, n, size), "labels": torch.randint(0, 3, (n,), generator=generator)}
        for n in (0, 1, 7, 12)
    ]
    levels = [torch.zeros(4, 64, side, side) for side in (16, 8, 4)]
    scenes, _ = model.transform(torch.rand(4, 3, size, size))
    anchors = model.anchor_generator(scenes, levels)
    theirs = {}

    class Head(torch.nn.Module):
        def compute_loss(self, targets, outputs, anchors, matched):
            theirs["matched"] = torch.stack(matched)
            return {}

    model.head = Head()
    detection.FCOS.compute_loss(model, rows, {}, anchors, [256, 64, 16])
    boxes = pad_sequence([row["boxes"] for row in rows], batch_first=True)
    labels = pad_sequence([row["labels"] for row in rows], True, -1)
    mine = model._matched(anchors[0], [256, 64, 16], boxes, labels >= 0)
    assert (mine >= 0).sum() > 50
    assert torch.equal(mine, theirs["matched"])


def test_places_of_large_images_are_exact_in_any_format():
    model = build({**config("fcos_small"), "image_size": 1280}).network
    levels = [torch.zeros(1, 2, side, side, dtype=torch.bfloat16) for side in (160, 80, 40)]
    (places,) = model.anchor_generator(ImageList(torch.zeros(1, 3, 1280, 1280), [(1280, 1280)]), levels)
    sides = places[:, 2:] - places[:, :2]
    assert sides[:25600].unique().tolist() == [8.0]
    assert sides[25600:32000].unique().tolist() == [16.0]


def test_the_generalized_overlap_is_torchvisions():
    generator = torch.Generator().manual_seed(4)
    boxes, others = (scene_boxes(generator, 50, 64) for _ in range(2))
    overlap, generalized = _overlaps(boxes, others)
    torch.testing.assert_close(overlap, box_iou(boxes, others).diagonal(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(generalized, generalized_box_iou(boxes, others).diagonal(), rtol=1e-5, atol=1e-6)


def test_images_are_normalised_as_by_torchvisions_transform():
    model = build(config("fcos_small")).network
    theirs = GeneralizedRCNNTransform(64, 64, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    wanted, _ = theirs(list(images))
    found, _ = model.transform(images)
    assert torch.equal(found.tensors, wanted.tensors)
    assert found.image_sizes == wanted.image_sizes


def test_the_score_of_the_small_network_is_that_of_the_box_times_that_of_the_part():
    torch.manual_seed(0)
    model = build(config("fcos_small")).eval()
    head = model.network.head
    with torch.inference_mode():
        out = head([torch.rand(1, 64, side, side) for side in (8, 4, 2)])
    assert out["cls_logits"].sigmoid().sum(-1) == pytest.approx(1.0, abs=1e-4)
