"""What one step may see of a list of photographs: cheap labels, and outputs of earlier steps under its own names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from torchvision import tv_tensors

from weakseg.data.dataset import Dataset
from weakseg.data.store import Store
from weakseg.ops.saliency import saliency_of
from weakseg.types import Sample, ScoreMap, WeaksegError


@dataclass(frozen=True)
class View(Sequence[Sample]):
    """Samples by position; pixels are read when asked for.

    Attributes:
        dataset: photographs and cheap labels.
        ids: the list.
        seeds: name in `sample.seeds` -> (store, key) of an earlier step's label maps.
        scores: name in `sample.scores` -> (store, key) of an earlier step's score maps.
        optional: names that may be missing for an id.
        truth: whether `sample.mask` is filled; only for `labels.truth`.
        need_tags: whether a photograph without tags is an error.
        need_saliency: whether saliency maps are read; reading them costs as much as reading a photograph.
        saliency: (store, key) of an earlier step's saliency maps, in place of the data set's own.
    """

    dataset: Dataset
    ids: tuple[str, ...]
    seeds: Mapping[str, tuple[Store, str]] = field(default_factory=dict)
    scores: Mapping[str, tuple[Store, str]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    truth: bool = False
    need_tags: bool = True
    need_saliency: bool = True
    saliency: tuple[Store, str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Sample]:
        return (self[k] for k in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "View": ...
    def __getitem__(self, index: "int | slice") -> "Sample | View":
        """The sample at `index`, or the view of a slice of the list.

        Raises:
            WeaksegError: a file is damaged, an earlier step lacks this id, or its map has another size.
        """
        if isinstance(index, slice):
            return replace(self, ids=self.ids[index])
        id = self.ids[index]
        own = self.need_saliency and self.saliency is None
        sample = self.dataset.sample(id, truth=self.truth, need_tags=self.need_tags, saliency=own)
        if self.need_saliency and self.saliency is not None:
            sample = replace(sample, saliency=self._saliency(*self.saliency, id, sample.size))
        if not self.seeds and not self.scores:
            return sample
        return replace(sample, seeds=self._seeds(id, sample.size), scores=self._scores(id, sample.size))

    def _seeds(self, id: str, size: tuple[int, int]) -> dict[str, tv_tensors.Mask]:
        found = {}
        for name, (store, key) in self._stored(self.seeds, id):
            labels = store.labels(id, key)
            _check_size(store, id, key, (int(labels.shape[0]), int(labels.shape[1])), size)
            found[name] = tv_tensors.Mask(labels)
        return found

    def _scores(self, id: str, size: tuple[int, int]) -> dict[str, ScoreMap]:
        found = {}
        for name, (store, key) in self._stored(self.scores, id):
            maps = store.read(id, key)
            if not isinstance(maps, ScoreMap):
                raise WeaksegError(f"{store.folder} holds {store.kind(key)} under {key!r}; score maps were wanted")
            _check_size(store, id, key, maps.size, size)
            found[name] = maps
        return found

    def _saliency(self, store: Store, key: str, id: str, size: tuple[int, int]) -> tv_tensors.Mask:
        maps = store.read(id, key)
        if not isinstance(maps, ScoreMap):
            raise WeaksegError(f"{store.folder} holds {store.kind(key)} under {key!r}; a saliency map was wanted")
        _check_size(store, id, key, maps.size, size)
        try:
            return tv_tensors.Mask(saliency_of(maps))
        except ValueError as error:
            raise WeaksegError(f"{store.path(id, key)}: {error}; name a step that makes one") from None

    def _stored(self, names: Mapping[str, tuple[Store, str]], id: str) -> Iterator[tuple[str, tuple[Store, str]]]:
        """The outputs to read for `id`: all of them, but optional ones only if they exist."""
        for name, (store, key) in names.items():
            if name not in self.optional or store.holds(id, key):
                yield name, (store, key)


def _check_size(store: Store, id: str, key: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if tuple(found) != tuple(wanted):
        raise WeaksegError(
            f"{store.path(id, key)} belongs to a photograph of {found[1]}x{found[0]} pixels, {id} has "
            f"{wanted[1]}x{wanted[0]}; remove the file and run its step again"
        )
