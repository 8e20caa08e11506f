"""Runs a training in its folder: resumes it, and leaves weights that anyone can load."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from tasks.base.errors import ConfigError, StopAsked
from tasks.base.progress import Note, Progress
from tasks.base.workspace import write_json
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.samples import check_num_classes, order_classes, read_classes, read_subset
from tasks.classification.data.subsets import LoadedSubset, digest_of, load_subsets, reading
from tasks.classification.models import build_model, load_weights, takes_one_image
from tasks.classification.params import FREE_TO_CHANGE, TrainParams
from tasks.classification.training.events import EpochMetrics, Event
from tasks.classification.training.train import Trainer
from tasks.run.checkpoint import save_tensors
from tasks.training.batches import MEAN, STD, Batches
from tasks.training.events import BatchDone
from tasks.training.optim import copy_to_average
from tasks.training.precision import Precision, choose_precision
from tasks.training.session import FolderSession
from tasks.training.state_dicts import pretrained_state, read_state_dict


class TrainingSession(FolderSession[TrainParams, Trainer, EpochMetrics]):
    """One training, from a split dataset to a folder with weights, configuration and history.

    The dataset holds train/<class>/<image> and val/<class>/<image>; shrunk images are kept in the cache.
    """

    METRICS = EpochMetrics
    FREE_TO_CHANGE = FREE_TO_CHANGE
    LEFTOVERS = (*FolderSession.LEFTOVERS, "epochs/.*.pt.*")

    def _open_dataset(self) -> None:
        self.classes = order_classes(read_classes(self.dataset), self.params.class_names, self.dataset)
        check_num_classes(self.params.num_classes, self.classes, self.dataset)
        self.parts: dict[str, LoadedSubset] = {}
        self._digest: str | None = None

    def _check_batches(self, n_images: int) -> None:
        """Refuse a batch of one image where batch norm would have one value per channel, before any work is done."""
        p = self.params
        alone = p.batch_size == 1 or n_images == 1
        if alone and not takes_one_image(p.model, len(self.classes), p.image_size):
            raise ConfigError(
                f"{p.model} cannot be trained on batches of one image of image_size {p.image_size}: batch norm finds "
                f"one value per channel, need at least 2; found batch_size {p.batch_size} and {n_images} training "
                f"image(s): take a batch_size of 2 or more, or a larger image_size"
            )

    def load_subsets(self, names: Sequence[str]) -> Iterator[Event]:
        """Find the images of some parts and choose where they are kept; they are read when they are asked for."""
        samples = {name: read_subset(self.dataset, name, self.classes) for name in names}
        self._check_batches(len(samples["train"].paths))
        cache = ResizeCache(self.cache / "resized", self.params.image_size)
        self.parts, why = load_subsets(samples, cache, self.params.num_epochs, self.params.n_local)
        yield Note(why)

    def _looked(self, progress: Iterator[Progress]) -> Iterator[Event]:
        for event in progress:
            yield event
            if self._stop_asked():
                raise StopAsked("stopped while reading the images, as asked")

    @property
    def digests_known(self) -> bool:
        """Return whether the content of all images is known, so that their digests cost nothing."""
        return bool(self.parts) and all(part.images.digests_known for part in self.parts.values())

    def _read_data(self) -> Iterator[Event]:
        yield from self.load_subsets(("train", "val"))
        if self.checkpoint.path.is_file():  # it is compared with the content of the images
            yield from self._looked(reading(self.parts, self.params.n_workers))

    def _events(self, trainer: Trainer) -> Iterator[BatchDone | EpochMetrics]:
        p, ranks = self.params, trainer.ranks
        train = self._batches("train", shuffle=p.shuffle, seed=p.seed, mine=ranks.slices)
        return trainer.run(train, self._batches("val", join_last=False, mine=ranks.whole_batches))

    def find_data(self) -> None:
        """Find the images; each is read when it is asked for."""
        for _ in self.load_subsets(("train", "val")):
            pass

    def _batches(self, part: str, **options: Any) -> Batches:
        p = self.params
        pin = self.device.type == "cuda"
        return self.parts[part].batches(p.batch_size, n_workers=p.n_workers, pin=pin, **options)

    def _new_precision(self) -> tuple[Precision, str]:
        p = self.params
        size = p.batch_size, p.image_size
        return choose_precision(p.precision, self.device, self._build, size, self.cache / "precision", p.model)

    def _build(self) -> nn.Module:
        return build_model(self.params.model, len(self.classes), self.params.image_size)

    def _trainer(self, precision: Precision, *, fresh: bool) -> tuple[Trainer, list[str]]:
        p = self.params
        model = self._build()
        notes: list[str] = []
        if fresh and p.weight_path is not None:
            notes += load_weights(model, p.model, read_state_dict(p.weight_path), str(p.weight_path))
            notes.append(f"starts from {p.weight_path}")
        elif fresh and p.pretrained:
            state, name = pretrained_state(p.model)
            notes += load_weights(model, p.model, state, name)
            notes.append(f"starts from {name}")
        ema_copy = copy_to_average(self._build, p.ema_decay)
        return Trainer(model, len(self.classes), p, self.device, precision, ema_copy=ema_copy), notes

    def _epoch_ended(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        if self.params.keep_every_epoch:
            save_tensors(self.folder / "epochs" / f"epoch-{metrics.epoch:04d}.pt", trainer.graded_model.state_dict())

    def data_digest(self) -> str:
        """Return one digest over the images and labels trained and validated on."""
        if self._digest is None:
            self._digest = digest_of({name: self.parts[name] for name in ("train", "val")})
        return self._digest

    def _finish(self, trainer: Trainer) -> None:
        self._put_best()
        save_tensors(self.folder / "last.pt", trainer.graded_model.state_dict())
        found = {"precision": trainer.precision, "temperature": trainer.best_temperature}
        write_json(self.folder / "config.json", {**self.model_config(), **found})
        self._write_seen(digest for part in self.parts.values() for digest in part.digests)
        self._write_history()
        self._mark_trained(trainer, "best_acc")

    def model_config(self) -> dict[str, Any]:
        """Return what is needed to use the weights: architecture, classes and how to prepare an image."""
        return {
            "model": self.params.model,
            "classes": self.classes,
            "image_size": self.params.image_size,
            "mean": list(MEAN),
            "std": list(STD),
        }
