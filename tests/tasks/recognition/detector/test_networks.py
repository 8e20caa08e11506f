import pytest
import torch

from tasks.recognition.detector.networks import build

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


def test_the_score_of_the_small_network_is_that_of_the_box_times_that_of_the_part():
    torch.manual_seed(0)
    model = build(config("fcos_small")).eval()
    head = model.network.head
    with torch.inference_mode():
        out = head([torch.rand(1, 64, side, side) for side in (8, 4, 2)])
    assert out["cls_logits"].sigmoid().sum(-1) == pytest.approx(1.0, abs=1e-4)
