"""What a review knows and keeps: photographs, their masks, corrections and decisions. There is no web in it.

Masks that are accepted become a plain-folder data set as one goes, with the photographs beside them: `weakseg run
supervised-mobile --data OUT` learns from them, and `labels.truth` reads them like any true mask. Masks that the review
began with are only read.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from weakseg.data.dataset import Dataset
from weakseg.data.images import image_size, read_image, read_mask
from weakseg.data.lists import tags_csv
from weakseg.data.store import colour, read_bytes, read_json, write_bytes, write_json, write_label_map, write_text
from weakseg.ops.crf import crf_from_labels, recipe
from weakseg.report.figures import jpeg, overlay
from weakseg.types import BACKGROUND, IGNORE, LabelMap, WeaksegError, unknown_id

Decision: TypeAlias = Literal["open", "accepted", "rejected"]

FEW, MANY = 0.005, 0.9  # shares of foreground that are worth a look
PIECES = 6  # regions of one class
THUMB = 240  # pixels, long side
CRF, CONFIDENCE = "bana_stage2", 0.7
"""Of three sets of kernels (IRN's, BANA's, deeplab-pytorch's), and 0.7 or 0.9 for the labels, these mended rough masks
best: true masks of 60 photographs, grown by 6 pixels, have 88.4 mIoU, these make it 93.8 and only 6 masks worse (IRN's
89.0 and 25)."""


def doubts(labels: LabelMap, classes: Sequence[str], tags: Tensor | None = None) -> list[tuple[float, str]]:
    """Why a mask is worth a look, gravest first; nothing here knows the truth.

    Args:
        labels: uint8 (H, W).
        classes: the C foreground names.
        tags: bool (C,), what the photograph shows, or None if nobody said.

    Returns:
        (weight, reason) of each doubt. Weights only order: 3 for what cannot be right, below 1 for what may be.

    >>> doubts(torch.zeros(4, 4, dtype=torch.uint8), ("cat", "dog"), torch.tensor([True, False]))
    [(3.0, 'no pixel of cat')]
    """
    pixels = np.bincount(labels.numpy().ravel(), minlength=256)
    objects = pixels[1:IGNORE]
    found: list[tuple[float, str]] = []
    if tags is not None:
        found += [
            (3.0, f"no pixel of {classes[k]}") for k, there in enumerate(tags.tolist()) if there and not objects[k]
        ]
        stray = [classes[k] for k, there in enumerate(tags.tolist()) if not there and objects[k]]
        found += [(3.0, f"{name} is no tag of it") for name in stray]
    share = float(objects.sum() / pixels.sum())
    if not objects.any():
        found += [] if tags is not None else [(2.0, "all background")]
    elif share < FEW:
        found.append((1.0, f"{100 * share:.1f} % foreground"))
    elif share > MANY:
        found.append((1.0, f"{100 * share:.0f} % foreground"))
    for k in np.flatnonzero(objects).tolist():
        if (pieces := ndimage.label(labels.numpy() == k + 1)[1]) > PIECES:
            found.append((1 - PIECES / pieces, f"{classes[k]} in {pieces} pieces"))
    return sorted(found, key=lambda doubt: -doubt[0])


class Review:
    """One review; every change is on the disk when its method returns. Methods may be called from several threads.

    Attributes:
        out: the folder of results: ``images``, ``masks``, ``lists/train.txt``, ``tags.csv`` and ``classes.txt`` of what
            was accepted, ``review/review.json`` (the decisions) and ``review/edited`` (corrections).
        classes: the C foreground names.
        ids: photographs with a mask, those with the gravest doubts first.
        skipped: what could not be reviewed, a sentence each.
    """

    def __init__(
        self,
        photos: Dataset,
        masks: Mapping[str, Path],
        classes: Sequence[str],
        out: Path,
        *,
        tick: Callable[[int, int], None] | None = None,
    ) -> None:
        """Look at every mask once, and go on where an earlier review in `out` ended.

        Args:
            photos: the photographs; their tags are used where there are any.
            masks: PNG of label maps by id.
            classes: the C foreground names, in the order of their ids.
            out: folder of results.
            tick: is called with (masks looked at, all masks).

        Raises:
            WeaksegError: no mask fits a photograph, or `out` holds a review of other classes or other things.
        """
        self.out, self.classes = out, tuple(classes)
        self._photos, self._masks = photos, masks
        self._lock = threading.RLock()
        self._decisions = self._earlier()
        self._known: dict[str, dict[str, Any]] = {}
        self.skipped = [f"{id} has a mask and no photograph" for id in sorted(set(masks) - set(photos.ids))]
        ids = [id for id in photos.ids if id in masks]
        for done, id in enumerate(ids, 1):
            try:
                self._look(id)
            except WeaksegError as error:
                self.skipped.append(str(error))
            if tick is not None:
                tick(done, len(ids))
        if not self._known:
            first = f" ({self.skipped[0]})" if self.skipped else ""
            raise WeaksegError(
                f"none of the {len(masks)} masks can be reviewed over the {len(photos)} photographs in {photos.root}"
                f"{first}; masks are named by file stem and have their photograph's size"
            )
        self.ids = tuple(sorted(self._known, key=lambda id: (-self._known[id]["weight"], id)))

    def _earlier(self) -> dict[str, Decision]:
        """The decisions that stand in `out`."""
        note = self.out / "review" / "review.json"
        if not note.is_file():
            if stranger := next((p for p in (self.out / "images", self.out / "masks") if p.exists()), None):
                raise WeaksegError(
                    f"{stranger} is there and no review made it; nothing is overwritten, so name a new --out"
                )
            return {}
        earlier = read_json(note, dict)
        if earlier.get("classes") != list(self.classes):
            theirs = ", ".join(map(str, earlier.get("classes") or ["?"]))
            raise WeaksegError(
                f"{self.out} holds a review of the classes {theirs}, these masks have {', '.join(self.classes)}; "
                "name another --out"
            )
        decisions = earlier.get("decisions")
        made = decisions.items() if isinstance(decisions, dict) else ()
        return {id: decision for id, decision in made if decision in get_args(Decision)}

    def _look(self, id: str) -> dict[str, Any]:
        """Read the mask of `id` and note what the page tells of it."""
        labels = self.mask(id)
        tags = self._photos.tags(id) if self._photos.has_tags(id) else None
        found = doubts(labels, self.classes, tags)
        pixels = np.bincount(labels.numpy().ravel(), minlength=256)
        self._known[id] = {
            "id": id,
            "width": labels.shape[1],
            "height": labels.shape[0],
            "weight": sum(weight for weight, _ in found),
            "doubts": [reason for _, reason in found],
            "tags": None if tags is None else [k + 1 for k, there in enumerate(tags.tolist()) if there],
            "shares": {int(k): round(float(pixels[k] / pixels.sum()), 4) for k in np.flatnonzero(pixels)},
            "edited": self._edited(id).is_file(),
        }
        return self.entry(id)

    # --- reading ---

    def __contains__(self, id: object) -> bool:
        return id in self._known

    def entry(self, id: str) -> dict[str, Any]:
        """What the page tells of a photograph: size, doubts, tags, shares of the classes, decision, whether edited."""
        return {**self._known[id], "decision": self._decisions.get(id, "open")}

    def entries(self) -> list[dict[str, Any]]:
        """All photographs, in the order of `ids`."""
        return [self.entry(id) for id in self.ids]

    def legend(self) -> list[dict[str, Any]]:
        """Id, name and RGB colour of every label: background, the classes, 255."""
        names = {BACKGROUND: "background", **dict(enumerate(self.classes, 1)), IGNORE: "undecided"}
        return [{"id": k, "name": name, "colour": list(colour(k))} for k, name in names.items()]

    def mask(self, id: str) -> LabelMap:
        """The label map uint8 (H, W): corrected, if somebody did.

        Raises:
            WeaksegError: the file is damaged, not of its photograph's size, or holds an id without a class.
        """
        path = self._edited(id) if self._edited(id).is_file() else self._masks[id]
        labels = read_mask(path, image_size(self._photos.image_path(id)))
        return _checked(labels, len(self.classes), str(path))

    def photograph(self, id: str) -> bytes:
        """The photograph upright and at its own size, as JPEG: browsers open it, whatever the file was."""
        return jpeg(read_image(self._photos.image_path(id)), None, quality=92)

    def thumbnail(self, id: str) -> bytes:
        """A small JPEG of the mask over its photograph."""
        return jpeg(overlay(read_image(self._photos.image_path(id)), self.mask(id)), THUMB)

    def refined(self, id: str, labels: LabelMap) -> LabelMap:
        """What DenseCRF makes of a label map: edges move to those of the photograph, 255 gets an answer.

        The classes are those in `labels`.
        """
        labels = self._fitting(id, labels)
        ids = torch.unique(torch.cat([labels.new_tensor([BACKGROUND]), labels[labels != IGNORE]]))
        image = read_image(self._photos.image_path(id)).as_subclass(Tensor)
        return crf_from_labels(image, labels, ids, recipe(CRF), CONFIDENCE)

    # --- changing ---

    def save(self, id: str, labels: LabelMap) -> dict[str, Any]:
        """Keep a corrected label map uint8 (H, W); the entry as it is now.

        Raises:
            WeaksegError: another size, or an id without a class.
        """
        labels = self._fitting(id, labels)
        with self._lock:
            write_label_map(self._edited(id), labels)
            return self._changed(id)

    def reset(self, id: str) -> dict[str, Any]:
        """Forget the corrections of a mask; the entry as it is now."""
        with self._lock:
            self._edited(id).unlink(missing_ok=True)
            return self._changed(id)

    def decide(self, id: str, decision: Any) -> dict[str, Any]:
        """Accept a mask, reject it, or leave it open again (`Decision`); the entry as it is now."""
        if decision not in get_args(Decision):
            raise WeaksegError(f"a decision is one of {', '.join(get_args(Decision))}; got {decision!r}")
        with self._lock:
            self._decisions[id] = decision
            self._publish(id)
            self._write_tables()
            return self.entry(id)

    def counts(self) -> dict[str, int]:
        """How many photographs are open, accepted and rejected, and how many masks were edited."""
        entries = self.entries()
        made = {what: sum(e["decision"] == what for e in entries) for what in get_args(Decision)}
        return {**made, "edited": sum(e["edited"] for e in entries)}

    def _edited(self, id: str) -> Path:
        return self.out / "review" / "edited" / f"{id}.png"

    def _fitting(self, id: str, labels: LabelMap) -> LabelMap:
        known = self._known[id]
        if tuple(labels.shape) != (known["height"], known["width"]):
            raise WeaksegError(
                f"{id}: a mask of {labels.numel()} pixels for a photograph of {known['width']}x{known['height']}"
            )
        return _checked(labels, len(self.classes), id)

    def _changed(self, id: str) -> dict[str, Any]:
        entry = self._look(id)
        if entry["decision"] == "accepted":
            self._publish(id)
            self._write_tables()
        return entry

    def _publish(self, id: str) -> None:
        """Photograph and mask of an accepted one are in the data set, those of another are not."""
        photo = self._photos.image_path(id)
        places = self.out / "images" / photo.name, self.out / "masks" / f"{id}.png"
        if self._decisions.get(id) == "accepted":
            write_bytes(places[0], read_bytes(photo))
            write_label_map(places[1], self.mask(id))
        else:
            for path in places:
                path.unlink(missing_ok=True)

    def _write_tables(self) -> None:
        """The decisions, and the data set's classes, tags and list."""
        accepted = [e for e in self.entries() if e["decision"] == "accepted"]
        accepted.sort(key=lambda e: e["id"])
        write_text(self.out / "classes.txt", "".join(f"{name}\n" for name in self.classes))
        write_text(self.out / "lists" / "train.txt", "".join(f"{e['id']}\n" for e in accepted))
        rows = ((self._photos.image_path(e["id"]).name, self._names(e)) for e in accepted)
        write_text(self.out / "tags.csv", tags_csv(rows))
        write_json(
            self.out / "review" / "review.json",
            {"classes": list(self.classes), "decisions": {k: self._decisions[k] for k in sorted(self._decisions)}},
        )

    def _names(self, entry: Mapping[str, Any]) -> list[str]:
        return [self.classes[k - 1] for k in entry["shares"] if k not in (BACKGROUND, IGNORE)]


def _checked(labels: LabelMap, classes: int, where: str) -> LabelMap:
    if (strange := unknown_id(labels, classes)) is not None:
        raise WeaksegError(
            f"{where}: id {strange}, but there are {classes} classes; give --classes in the order of the ids"
        )
    return labels
