"""DenseCRF: labels and scores pulled to the edges of the photograph.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011. Every
pixel is tied to every other by two Gaussian kernels, one of position and one of position and colour; mean field
passes messages through a permutohedral lattice (`_lattice`). Published numbers of this field come from the lattice of
pydensecrf, which is an approximation of its own; this one has the same geometry, precision (float32) and
normalisation and agrees with it to about 1e-7 (tests/ops/test_ops_crf.py).

Everything here is a pure function; a call uses one thread on a CPU and lets go of Python's lock, so a thread a
photograph is the way to use all cores.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..types import BACKGROUND, IGNORE, LabelMap, ScoreMap, WeaksegError, check_label_map
from . import _lattice, _lattice_torch, _mean_field
from ._lattice_filter import Lattice

Backend: TypeAlias = Literal["auto", "numba", "torch"]
CrfImage: TypeAlias = Literal["rgb", "wrapped_bgr"]


@dataclass(frozen=True)
class CrfParams:
    """A dense CRF: the width and weight of its two kernels, and how long to iterate.

    Attributes:
        iterations: mean-field updates after the softmax of the unary.
        gaussian_sxy: standard deviation of the position kernel, pixels (theta_gamma).
        gaussian_compat: its Potts weight.
        bilateral_sxy: standard deviation in position of the appearance kernel, pixels (theta_alpha).
        bilateral_srgb: standard deviation in colour of the appearance kernel, grey levels of 0-255 (theta_beta).
        bilateral_compat: its Potts weight.
    """

    iterations: int
    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise WeaksegError(f"a CRF makes 0 or more iterations; got {self.iterations}")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not 0 < getattr(self, name) < math.inf:
                raise WeaksegError(f"{name} is a width above 0; got {getattr(self, name)}")
        for name in ("gaussian_compat", "bilateral_compat"):
            if not math.isfinite(getattr(self, name)):
                raise WeaksegError(f"{name} is a finite weight, 0 to leave the kernel out; got {getattr(self, name)}")


RECIPES: dict[str, CrfParams] = {
    "psa": CrfParams(10, 3, 3, 80, 13, 10),  # PSA, SEAM, AEFT: on scores with alpha
    "psa_post_rw": CrfParams(1, 3, 3, 80, 13, 10),  # AEFT, after the random walk
    "irn_label": CrfParams(10, 3, 3, 50, 5, 10),  # IRN, AMN: on labels, confidence 0.7
    "bana_stage2": CrfParams(10, 3, 3, 55, 3, 4),
    "deeplab_v1_vgg": CrfParams(10, 3, 3, 121, 5, 4),
    "deeplab_v2_res101": CrfParams(10, 1, 3, 67, 3, 4),
    "seam_codebase": CrfParams(1, 3, 3, 32, 13, 10),
    "mctformer_seg": CrfParams(10, 4, 3, 83, 5, 3),
}
"""The parameters that the papers' repositories use, by name."""


def recipe(name: str) -> CrfParams:
    """The parameters called `name` in `RECIPES`; WeaksegError lists the names if there is none.

    >>> recipe("psa").bilateral_sxy
    80
    """
    if name not in RECIPES:
        raise WeaksegError(f"there is no CRF recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


# --- unaries ---


def unary_from_probabilities(probabilities: Tensor) -> Tensor:
    """Unary energies -log p, with p clipped to [1e-5, 1]; the classes need not sum to one.

    Args:
        probabilities: float (K, H, W), scores or probabilities of K classes.

    Returns:
        float32 (K, H, W).

    >>> unary_from_probabilities(torch.tensor([1.0, 0.5, 0.0]).reshape(3, 1, 1)).flatten()
    tensor([-0.0000,  0.6931, 11.5129])
    """
    return -probabilities.float().clamp(1e-5, 1).log()


def unary_from_labels(labels: Tensor, n: int, confidence: float) -> Tensor:
    """Unary energies of a label map that is right with probability `confidence`.

    -log g for the pixel's label and -log((1 - g) / (n - 1)) for each other one. A pixel labelled 255 favours no class:
    its energy is log n for all.

    Args:
        labels: uint8 (H, W), 0..n-1 or 255.
        n: number of labels, 2 or more.
        confidence: g, above 0 and below 1.

    Returns:
        float32 (n, H, W).

    Raises:
        WeaksegError: if n < 2 (a single label leaves nothing to decide), a label is n or more, or g is out of range.

    >>> unary_from_labels(torch.tensor([[0, 2, 255]], dtype=torch.uint8), 3, 0.7)[:, 0]
    tensor([[0.3567, 1.8971, 1.0986],
            [1.8971, 1.8971, 1.0986],
            [1.8971, 0.3567, 1.0986]])
    """
    check_label_map(labels)
    if n < 2:
        raise WeaksegError(f"a CRF decides between 2 or more labels; got {n}: leave such a label map as it is")
    if not 0 < confidence < 1:
        raise WeaksegError(f"the confidence in labels lies between 0 and 1, both excluded; got {confidence}")
    known = labels != IGNORE
    if bool((known & (labels >= n)).any()):
        raise WeaksegError(f"labels are 0..{n - 1} or {IGNORE}; got {int(labels[known].max())}")
    energies = torch.full((n + 1, n), -math.log((1 - confidence) / (n - 1)), device=labels.device)
    energies.fill_diagonal_(-math.log(confidence))
    energies[n] = math.log(n)
    rows = labels.long().masked_fill(~known, n)
    return energies[rows].permute(2, 0, 1).contiguous()


# --- inference ---


def dense_crf(
    image: Tensor, unary: Tensor, params: CrfParams, *, scale_factor: float = 1.0, backend: Backend = "auto"
) -> Tensor:
    """Class probabilities of each pixel after mean-field inference.

    Q starts as softmax(-unary); each iteration sets Q = softmax(-unary + sum over kernels of w (L K L) Q), where K is a
    kernel's lattice filter and L = diag(K 1)^(-1/2): pydensecrf's diagonal kernels with symmetric normalisation and
    Potts compatibility.

    Args:
        image: uint8 (3, H, W), RGB 0-255, the untouched photograph.
        unary: float (K, H, W), energies (negative log-probabilities) on any device.
        params: the kernels and the number of iterations.
        scale_factor: every sxy is divided by it (for images at another scale than the kernels were chosen for).
        backend: ``numba`` (CPU, deterministic to the byte), ``torch`` (any device; within 1e-5 of the other), or
            ``auto``: numba for a tensor on the CPU and torch otherwise.

    Returns:
        float32 (K, H, W) on the device of `unary`, summing to one over K; in 0-1.

    Raises:
        WeaksegError: if shapes or types disagree, the scale is not above 0, or a kernel is too narrow for 64-bit keys.

    References:
        Krähenbühl and Koltun 2011, Algorithm 1; Adams, Baek and Davis 2010 for the filter.

    >>> image = torch.zeros(3, 1, 2, dtype=torch.uint8)
    >>> unary = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    >>> dense_crf(image, unary, CrfParams(5, 3, 0, 80, 13, 0))[:, 0]  # without kernels: softmax(-unary)
    tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]])
    """
    _check(image, unary, scale_factor)
    if backend == "auto":
        backend = "torch" if unary.device.type != "cpu" else "numba"
    if backend not in ("numba", "torch"):
        raise WeaksegError(f"a CRF backend is auto, numba or torch; got {backend!r}")
    with torch.no_grad():
        run = _dense_crf_numba if backend == "numba" else _dense_crf_torch
        return run(image.as_subclass(Tensor), unary.detach().float(), params, scale_factor)


def crf_from_labels(
    image: Tensor,
    labels: LabelMap,
    ids: Tensor,
    params: CrfParams = RECIPES["irn_label"],
    confidence: float = 0.7,
    *,
    scale_factor: float = 1.0,
    backend: Backend = "auto",
) -> LabelMap:
    """Label map after a CRF over the photograph's own classes (IRN's refinement of seeds).

    Args:
        image: uint8 (3, H, W), RGB 0-255.
        labels: uint8 (H, W), class ids; 255 = unknown, decided by the CRF alone.
        ids: uint8 (K,), the ids to choose from, background 0 included, each once.
        params: the kernels and the number of iterations.
        confidence: how far to trust `labels`, see `unary_from_labels`.
        scale_factor: see `dense_crf`.
        backend: see `dense_crf`.

    Returns:
        uint8 (H, W), ids out of `ids`; the labels unchanged if there is but one id.

    Raises:
        WeaksegError: if `labels` hold an id that `ids` does not.

    >>> labels = torch.tensor([[7, 7, 255, 7]], dtype=torch.uint8)
    >>> crf_from_labels(torch.zeros(3, 1, 4, dtype=torch.uint8), labels, torch.tensor([0, 7], dtype=torch.uint8))
    tensor([[7, 7, 7, 7]], dtype=torch.uint8)
    """
    check_label_map(labels)
    local = torch.full((256,), IGNORE, dtype=torch.uint8, device=labels.device)
    local[ids.long()] = torch.arange(len(ids), dtype=torch.uint8, device=labels.device)
    compact = local[labels.long()]
    strangers = torch.unique(labels[(compact == IGNORE) & (labels != IGNORE)]).tolist()
    if strangers or len(set(ids.tolist())) != len(ids):
        raise WeaksegError(
            f"a CRF over the ids {ids.tolist()} got labels {strangers}: give every id in the map, each once"
        )
    if len(ids) < 2:
        return labels.clone()
    unary = unary_from_labels(compact, len(ids), confidence)
    probabilities = dense_crf(image, unary, params, scale_factor=scale_factor, backend=backend)
    return ids.to(labels.device)[probabilities.argmax(0)]


def crf_with_alpha(
    image: Tensor,
    score_map: ScoreMap,
    alpha: float,
    params: CrfParams = RECIPES["psa"],
    *,
    scale_factor: float = 1.0,
    backend: Backend = "auto",
) -> ScoreMap:
    """Probabilities of background and present classes after PSA's CRF with alpha.

    The background is (1 - max over classes)^alpha; [background, classes] is clipped and logged as it stands, without
    summing to one. A small alpha gives a large background, and what survives is confident foreground.

    Args:
        image: uint8 (3, H, W), RGB 0-255.
        score_map: max-normalised maps in 0-1 of the present classes, without background, at the photograph's size.
        alpha: exponent, above 0.
        params: the kernels and the number of iterations.
        scale_factor: see `dense_crf`.
        backend: see `dense_crf`.

    Returns:
        ScoreMap with ids [0, present...] and probabilities (K + 1, H, W); a single map of ones if no class is present.

    Raises:
        WeaksegError: if the maps are of another size, hold background, or are one a box; or alpha is not above 0.

    References:
        Ahn and Kwak, PSA, CVPR 2018, Eq. (3).
    """
    if not 0 < alpha < math.inf:
        raise WeaksegError(f"alpha of the CRF's background is above 0; got {alpha}")
    if score_map.box is not None or BACKGROUND in score_map.ids.tolist():
        raise WeaksegError(f"a CRF with alpha takes one map a foreground class; got ids {score_map.ids.tolist()}")
    ids = torch.cat([score_map.ids.new_tensor([BACKGROUND]), score_map.ids])
    scores = score_map.scores
    if len(scores) == 0:
        return ScoreMap(ids, scores.new_ones((1, *image.shape[1:])), score_map.size)
    background = (1 - scores.amax(0, keepdim=True)).clamp(0, 1) ** alpha
    with_background = ScoreMap(ids, torch.cat([background, scores]), score_map.size)
    return crf_from_scores(image, with_background, params, scale_factor=scale_factor, backend=backend)


def crf_from_scores(
    image: Tensor,
    score_map: ScoreMap,
    params: CrfParams = RECIPES["psa"],
    *,
    scale_factor: float = 1.0,
    backend: Backend = "auto",
) -> ScoreMap:
    """Probabilities after a CRF on scores or probabilities that hold their own background.

    Args:
        image: uint8 (3, H, W), RGB 0-255.
        score_map: maps in 0-1, one a class, at the photograph's size; they need not sum to one.
        params: the kernels and the number of iterations.
        scale_factor: see `dense_crf`.
        backend: see `dense_crf`.

    Returns:
        ScoreMap with the same ids and probabilities (K, H, W).

    Raises:
        WeaksegError: if the maps are not of the photograph's size, or there is none.

    >>> maps = ScoreMap(torch.tensor([0, 3], dtype=torch.uint8), torch.tensor([[[0.2]], [[0.6]]]), (1, 1))
    >>> crf_from_scores(torch.zeros(3, 1, 1, dtype=torch.uint8), maps, CrfParams(0, 3, 3, 80, 13, 10)).scores.flatten()
    tensor([0.2500, 0.7500])
    """
    if tuple(score_map.scores.shape[1:]) != tuple(image.shape[1:]):
        raise WeaksegError(
            f"the score maps are {tuple(score_map.scores.shape[1:])}, the photograph {tuple(image.shape[1:])} "
            "(height, width); resize the maps first"
        )
    unary = unary_from_probabilities(score_map.scores)
    probabilities = dense_crf(image, unary, params, scale_factor=scale_factor, backend=backend)
    return ScoreMap(score_map.ids, probabilities, score_map.size, score_map.box)


def crf_image(image: Tensor, kind: CrfImage) -> Tensor:
    """What a CRF is shown of a photograph, uint8 (3, H, W): the photograph itself, or `wrapped_bgr` of it."""
    image = image.as_subclass(Tensor)
    return wrapped_bgr(image) if kind == "wrapped_bgr" else image


def wrapped_bgr(image: Tensor, mean: tuple[float, float, float] = (104.008, 116.669, 122.675)) -> Tensor:
    """The image that BANA's and deeplab-pytorch's test scripts hand to their CRF by mistake.

    They subtract the mean from the BGR image and cast to uint8: what lies below the mean wraps modulo 256, which puts
    false edges wherever a channel crosses it. Only for bit-level comparison with numbers published that way.

    Args:
        image: uint8 (3, H, W), RGB 0-255.
        mean: of blue, green and red, 0-255; the default is deeplab-pytorch's.

    Returns:
        uint8 (3, H, W), BGR, wrapped.

    >>> wrapped_bgr(torch.zeros(3, 1, 1, dtype=torch.uint8)).flatten().tolist()
    [152, 140, 134]
    """
    centred = image.as_subclass(Tensor).flip(0).float() - torch.tensor(mean, device=image.device).reshape(3, 1, 1)
    return centred.to(torch.int32).remainder(256).to(torch.uint8)


# --- the two paths ---


def _check(image: Tensor, unary: Tensor, scale_factor: float) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise WeaksegError(f"a CRF takes an image uint8 (3, H, W); got {image.dtype} {tuple(image.shape)}")
    if unary.ndim != 3 or not unary.is_floating_point() or unary.shape[0] < 1:
        raise WeaksegError(f"unary energies are float (K, H, W); got {unary.dtype} {tuple(unary.shape)}")
    if unary.shape[1:] != image.shape[1:] or 0 in unary.shape:
        raise WeaksegError(
            f"the unary is {tuple(unary.shape[1:])} pixels, its image {tuple(image.shape[1:])} (height, width)"
        )
    if not 0 < scale_factor < math.inf:
        raise WeaksegError(f"the CRF's scale factor is above 0; got {scale_factor}")


def _kernels(params: CrfParams, scale_factor: float) -> tuple[tuple[float, float | None, float], ...]:
    """(sxy, srgb or None, weight) of the kernels whose weight is not 0."""
    position = (params.gaussian_sxy / scale_factor, None, params.gaussian_compat)
    appearance = (params.bilateral_sxy / scale_factor, params.bilateral_srgb, params.bilateral_compat)
    return tuple(k for k in (position, appearance) if k[2] != 0)


@lru_cache(maxsize=8)
def _position_lattice(height: int, width: int, sxy: float) -> Lattice:
    """The position kernel's lattice does not depend on the photograph; one is about 20 bytes a pixel."""
    return _lattice.build(_lattice.position_features(height, width, sxy))


def _dense_crf_numba(image: Tensor, unary: Tensor, params: CrfParams, scale_factor: float) -> Tensor:
    _, height, width = unary.shape
    terms = []
    for sxy, srgb, weight in _kernels(params, scale_factor):
        if srgb is None:
            lattice = _position_lattice(height, width, sxy)
        else:
            lattice = _lattice.build(_lattice.appearance_features(image.cpu().numpy(), sxy, srgb))
        terms.append((lattice, weight))
    probabilities = _mean_field.infer(unary.cpu().numpy().reshape(len(unary), -1), terms, params.iterations)
    return torch.from_numpy(probabilities).reshape(unary.shape).to(unary.device)


def _dense_crf_torch(image: Tensor, unary: Tensor, params: CrfParams, scale_factor: float) -> Tensor:
    terms = [
        (_lattice_torch.build(image.to(unary.device), sxy, srgb), weight)
        for sxy, srgb, weight in _kernels(params, scale_factor)
    ]
    energy = unary.reshape(len(unary), -1).T  # n = pixel, k = class
    q = (-energy).softmax(1)
    for _ in range(params.iterations):
        logits = -energy
        for lattice, weight in terms:
            logits = logits + weight * lattice.filter(q)
        q = logits.softmax(1)
    return q.T.reshape(unary.shape).contiguous()
