"""Adam over tensors whose rows come and go: as torch's own, and a row's moments go where the row goes."""

import pytest
import torch

from tasks.splatting.fit.optimizer import EPSILON, SplatOptimizer
from tasks.splatting.render.gaussians import Gaussians

RATES = {"means": 1e-2, "scales": 2e-2, "quats": 3e-2, "opacities": 4e-2, "sh0": 5e-2, "shN": 6e-2}


def gaussians(n: int, seed: int = 0, higher: int = 3) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (higher, 3)}
    return Gaussians(**{name: torch.randn(n, *shape, generator=g) for name, shape in shapes.items()})


def pull(optimizer: SplatOptimizer) -> None:
    """Leave gradients that differ by row and tensor."""
    sum((tensor**3 + tensor).sum() for tensor in optimizer.gaussians.tensors().values()).backward()


@pytest.mark.parametrize(
    ("batch_size", "options"),
    [(1, {"eps": EPSILON}), (4, {"eps": EPSILON / 2, "betas": (0.6, 0.996)})],
    ids=["one image", "four"],
)
def test_steps_are_those_of_torch_adam(batch_size, options):
    ours = SplatOptimizer(gaussians(7), batch_size)
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in gaussians(7).tensors().items()}
    adam = torch.optim.Adam([{"params": [theirs[name]], "lr": RATES[name]} for name in theirs], **options)
    for _ in range(5):
        pull(ours)
        ours.step(RATES)
        adam.zero_grad()
        sum((tensor**3 + tensor).sum() for tensor in theirs.values()).backward()
        adam.step()
    for name, tensor in ours.gaussians.tensors().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-6)
        assert tensor.grad is None


def test_rows_kept_go_on_as_if_the_others_had_never_been():
    whole, part = SplatOptimizer(gaussians(6)), SplatOptimizer(gaussians(6))
    rows = torch.tensor([4, 1, 2])
    for number in range(4):
        for optimizer in (whole, part):
            pull(optimizer)
            optimizer.step(RATES)
        if number == 1:
            part.keep(rows)
    for name, tensor in part.gaussians.tensors().items():
        assert torch.equal(tensor, whole.gaussians.tensors()[name][rows])


def test_rows_added_stand_at_the_end_without_momentum():
    optimizer = SplatOptimizer(gaussians(4))
    pull(optimizer)
    optimizer.step(RATES)
    more = gaussians(2, seed=1).tensors()
    optimizer.append(more)
    assert len(optimizer.gaussians) == 6
    for name, tensor in optimizer.gaussians.tensors().items():
        assert torch.equal(tensor[4:], more[name])
        assert tensor.requires_grad
        assert not optimizer.first[name][4:].any()
        assert optimizer.second[name][:4].all()
    pull(optimizer)
    optimizer.step(RATES)  # and they can be fitted


def test_a_row_that_is_forgotten_has_no_momentum_and_its_neighbours_have():
    optimizer = SplatOptimizer(gaussians(4))
    pull(optimizer)
    optimizer.step(RATES)
    optimizer.forget(torch.tensor([2]))
    optimizer.forget(slice(None), "opacities")
    assert not optimizer.first["means"][2].any()
    assert optimizer.first["means"][[0, 1, 3]].all()
    assert not optimizer.second["opacities"].any()


@pytest.mark.parametrize("higher", [0, 8])
def test_a_state_put_into_another_optimizer_goes_on_with_the_same_bits(higher):
    first, second = SplatOptimizer(gaussians(5, higher=higher)), SplatOptimizer(gaussians(9, seed=3, higher=higher))
    for _ in range(2):
        pull(first)
        first.step(RATES)
    state = first.state_dict()
    second.load_state_dict({k: _copied(v) for k, v in state.items()})
    for optimizer in (first, second):
        pull(optimizer)
        optimizer.step(RATES)
    for name, tensor in first.gaussians.tensors().items():
        assert torch.equal(tensor, second.gaussians.tensors()[name])


def _copied(value):
    return {k: v.clone() for k, v in value.items()} if isinstance(value, dict) else value.clone()
