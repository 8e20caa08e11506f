"""The processes of one training, numbered from 0: what each computes, and how they exchange it."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tasks.training.parallel.batch_norm import set_counted, synchronise_batch_norm

# Buffers are equal anyway, as all see the same statistics; torch 2.15 has another word for leaving them alone.
_NAMES = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of `size` processes that train one model together; alone, it exchanges nothing.

    Every batch is cut into `size` slices of consecutive images, of equal length but for one. Gradients and sums are
    added up over all, batch norm sees the whole batch: weights after a step are those that one process would have,
    but for the rounding of sums taken in another order.

    Attributes:
        rank: of this process, from 0. The first one writes what there is to write.
        size: how many there are.
        device: of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Return whether this is the process that writes."""
        return self.rank == 0

    def bounds(self, n: int) -> tuple[int, int]:
        """Return where this process's slice of n images begins and ends; a slice may be empty."""
        share, left = divmod(n, self.size)
        begin = self.rank * share + min(self.rank, left)
        return begin, begin + share + (self.rank < left)

    def slices(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return this process's slice of each batch: how a training is shared."""
        return [batch[slice(*self.bounds(len(batch)))] for batch in batches]

    def whole_batches(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return every `size`-th batch, from this process's number on: how a validation is shared."""
        return list(batches[self.rank :: self.size])

    def wrapped(self, model: nn.Module, *, skips: bool = False) -> nn.Module:
        """Return what a forward pass goes through, so that gradients are averaged; batch norm in `model` is changed.

        The weights of all become those of the first.

        Args:
            model: on the device.
            skips: a batch may leave parts of the model out, which are looked for after every forward pass.
        """
        if self.size == 1:
            return model
        synchronise_batch_norm(model, self.size)
        where = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=where, gradient_as_bucket_view=True, find_unused_parameters=skips, **_OWN_BUFFERS
        )

    def count(self, model: nn.Module, *, counted: bool) -> None:
        """Say whether the next forward pass is of images of the batch, or of a stand-in where this process has none.

        Networks that cannot compute nothing keep step with the others by it; its loss is to be weighed by 0.
        """
        if self.size > 1:
            set_counted(model, counted=counted)

    def add_up(self, sums: Tensor) -> Tensor:
        """Return sums over all processes, in the tensor given."""
        if self.size > 1:
            dist.all_reduce(sums)
        return sums

    def joined(self, own: Tensor, n_rows: int) -> Tensor:
        """Return n_rows rows, of which each process has those of its `bounds`, in every process."""
        if self.size == 1:
            return own
        sizes = [stop - begin for begin, stop in (Ranks(rank, self.size).bounds(n_rows) for rank in range(self.size))]
        found = self._from_all(own, max(sizes))
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    def firsts(self, one: float, other: float) -> tuple[float, float]:
        """Return two values as the first process has them; what is decided by them is the same in all."""
        if self.size == 1:
            return one, other
        told = torch.tensor([one, other], dtype=torch.float64, device=self.device)
        dist.broadcast(told, src=0)
        one, other = told.tolist()
        return one, other

    def add_up_all(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over all processes, in place and in one exchange; all have the same bits afterwards."""
        if self.size == 1:
            return
        flat = self.add_up(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def as_first(self, drawn: Tensor) -> Tensor:
        """Return a tensor as the first process has it; of the same shape in all."""
        if self.size > 1:
            dist.broadcast(drawn, src=0)
        return drawn

    def different(self, own: Tensor) -> list[int]:
        """Return the numbers of the processes in which a tensor is another one than in the first, in every process."""
        found = self._from_all(own, len(own))
        return [rank for rank, each in enumerate(found) if not torch.equal(each, found[0])]

    def reseed(self, seed: int, step: int) -> None:
        """Let what a network draws by itself (dropout) be a function of seed, step and process; the first draws on.

        No checkpoint has the generators of the others.
        """
        if not self.first:
            torch.manual_seed(int(np.random.SeedSequence((seed, step, self.rank)).generate_state(1)[0]))

    def gathered(
        self, answers: Iterable[tuple[Tensor, Tensor]], sizes: Sequence[int], n_columns: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the answers of all processes to all batches, in the order of the batches, in every process.

        Args:
            answers: to this process's `whole_batches`: (B, n_columns) float32 and labels (B,) int64, on the device.
            sizes: how many images each batch has.
            n_columns: of an answer.
        """
        if self.size == 1:
            yield from answers
            return
        own = list(answers)
        rows = torch.cat([torch.empty(0, n_columns, device=self.device), *(rows for rows, _ in own)])
        labels = torch.cat([torch.empty(0, dtype=torch.int64, device=self.device), *(labels for _, labels in own)])
        starts = [list(accumulate(sizes[rank :: self.size], initial=0)) for rank in range(self.size)]
        longest = max(start[-1] for start in starts)
        all_rows, all_labels = self._from_all(rows, longest), self._from_all(labels, longest)
        for number, size in enumerate(sizes):
            turn, rank = divmod(number, self.size)
            where = slice(starts[rank][turn], starts[rank][turn] + size)
            yield all_rows[rank][where], all_labels[rank][where]

    def _from_all(self, own: Tensor, n_rows: int) -> list[Tensor]:
        """Return the tensors of all processes, each with rows added up to n_rows."""
        padded = own.new_zeros(n_rows, *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        return found


ALONE = Ranks()
"""A training in one process."""
