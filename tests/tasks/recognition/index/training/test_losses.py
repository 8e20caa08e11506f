"""Margins stand in the logit of the right class alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from tasks.recognition.index.training.losses import MarginHead


def logits(loss, angle, margin=0.3):
    head = MarginHead(2, 2, loss, margin, scale=10.0)
    head.directions.data = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    vector = torch.tensor([[math.cos(angle), math.sin(angle)]], requires_grad=True)
    found = head(vector, torch.tensor([0]))
    found[0, 0].backward()
    assert torch.isfinite(vector.grad).all()
    return found[0].tolist()


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0])
def test_logits_are_what_the_papers_say(angle):
    other = 10 * math.sin(angle)
    assert logits("softmax", angle) == pytest.approx([10 * math.cos(angle), other], abs=1e-4)
    assert logits("cosface", angle) == pytest.approx([10 * (math.cos(angle) - 0.3), other], abs=1e-4)
    assert logits("arcface", angle) == pytest.approx([10 * math.cos(angle + 0.3), other], abs=0.01)


def test_the_arcface_logit_falls_beyond_pi_less_the_margin():
    found = [logits("arcface", angle)[0] for angle in (2.5, 2.8, 2.9, 3.1)]
    assert found == sorted(found, reverse=True)


def test_a_share_of_the_margin_is_in_force():
    head = MarginHead(2, 1, "cosface", 0.4, scale=1.0)
    head.share = 0.5
    vector = torch.nn.functional.normalize(head.directions.detach(), dim=1)
    assert head(vector, torch.tensor([0])).item() == pytest.approx(0.8, abs=1e-5)


def test_cosines_are_finer_than_the_steps_of_bf16():
    torch.manual_seed(0)
    head = MarginHead(16, 5, "cosface", 0.2, 16.0)
    vectors = F.normalize(torch.randn(8, 16), dim=1)
    labels = torch.arange(8) % 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(vectors, labels)
    assert torch.equal(mixed, head(vectors, labels))
