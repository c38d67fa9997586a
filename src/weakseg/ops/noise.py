"""Losses on two label maps of the same photograph that disagree in places: BANA's noise-aware loss and its rivals.

Oh et al., "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA), CVPR
2021, Eqs. (10)-(14), and its supplement, Eqs. (4), (6) and (7); methods.md 7.5. Sums run over the whole batch; each
loss is 0, with a gradient of 0, where it has no pixel; the published code divides 0 by 0 there, and so does
``guard=False`` (methods.md 7.7, row 15, and 13).
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from weakseg.ops.losses import balanced_mean
from weakseg.types import IGNORE, WeaksegError

CRF, RETRIEVED = "crf", "ret"
"""Names of the two label maps, Y_crf and Y_ret, among the outputs of ``bana.labels``, and among seeds."""

Unreliable: TypeAlias = Literal["nal", "ignore", "entropy", "bootstrap"]
"""What a loss makes of the pixels where two label maps disagree (supplement, Table 3)."""


def two_label_maps(seeds: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Y_crf and Y_ret among the seeds of a step; one label map, under any name, stands for both.

    Raises:
        WeaksegError: there is neither ``crf`` nor exactly one label map.

    >>> [labels.tolist() for labels in two_label_maps({"seeds": torch.tensor([[3]], dtype=torch.uint8)})]
    [[[3]], [[3]]]
    """
    crf = seeds.get(CRF, next(iter(seeds.values())) if len(seeds) == 1 else None)
    if crf is None:
        raise WeaksegError(
            f"this step reads the seeds {CRF!r} and {RETRIEVED!r}, or one label map; got {sorted(seeds) or 'none'}: "
            f"write `seeds: {{{CRF}: STEP/{CRF}, {RETRIEVED}: STEP/{RETRIEVED}}}` in the recipe"
        )
    return crf.as_subclass(Tensor), seeds.get(RETRIEVED, crf).as_subclass(Tensor)


def noise_aware_loss(
    logits: Tensor,
    cosines: Tensor,
    crf: Tensor,
    retrieved: Tensor,
    *,
    unreliable: Unreliable = "nal",
    gamma: float = 7.0,
    lam: float = 0.1,
    beta: float = 1.0,
    detach: bool = False,
    balanced: bool = False,
    guard: bool = True,
) -> dict[str, Tensor]:
    """Eq. (14), L = L_ce + lambda L_wce, by its two terms; or with a rival in place of the second.

    Args:
        logits: float (B, C + 1, H, W).
        cosines: float (B, C + 1, H, W), cos(phi, W_c), -1 to 1; read by ``nal`` alone.
        crf: uint8 (B, H, W), Y_crf, the labels; 255 is counted nowhere.
        retrieved: uint8 (B, H, W), Y_ret.
        unreliable: what is done with ~S: ``nal`` cross-entropy weighted by `confidence`; ``ignore`` nothing;
            ``entropy`` their entropy; ``bootstrap`` `bootstrapped` cross-entropy.
        gamma: see `confidence`.
        lam: lambda, the weight of the second term.
        beta: see `bootstrapped`.
        detach: whether sigma is a constant (the published code lets gradient through).
        balanced: no paper's; ``ce`` is its mean over foreground plus its mean over background.
        guard: a mean without pixels, or whose weights are all 0, is 0; False: nan, as published.

    Returns:
        ``ce``, Eq. (10), and ``wce``, ``entropy`` or ``bootstrap``, lambda included; float () each.

    >>> label = torch.ones(1, 1, 1, dtype=torch.uint8)
    >>> found = noise_aware_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), label, 0 * label, lam=1.0)
    >>> {name: round(float(term), 4) for name, term in found.items()}  # ln 2 where both disagree, sigma = 1
    {'ce': 0.0, 'wce': 0.6931}
    """
    reliable, others = agreement(crf, retrieved)
    loss = pixel_cross_entropy(logits, crf)
    if balanced:
        terms = {"ce": balanced_mean(loss, reliable_labels(crf, retrieved), half=False, guard=guard)}
    else:
        terms = {"ce": mean_over(loss, reliable, guard=guard)}
    if unreliable == "nal":
        sigma = confidence(cosines, crf, gamma)
        terms["wce"] = lam * mean_over(loss, others, sigma.detach() if detach else sigma, guard=guard)
    elif unreliable == "entropy":
        terms["entropy"] = lam * mean_over(entropy(logits), others, guard=guard)
    elif unreliable == "bootstrap":
        terms["bootstrap"] = lam * mean_over(bootstrapped(logits, crf, beta), others, guard=guard)
    return terms


def agreement(crf: Tensor, retrieved: Tensor) -> tuple[Tensor, Tensor]:
    """Where two label maps agree (S), and where they do not (~S).

    Args:
        crf: uint8 (..., H, W), Y_crf; where it is 255, as on padding, a pixel is in neither.
        retrieved: uint8 (..., H, W), Y_ret; where it alone is 255 a pixel is unreliable.

    Returns:
        reliable bool (..., H, W), unreliable bool (..., H, W).

    >>> a, b = torch.tensor([3, 3, 255, 0], dtype=torch.uint8), torch.tensor([3, 0, 255, 255], dtype=torch.uint8)
    >>> [mask.int().tolist() for mask in agreement(a, b)]
    [[1, 0, 0, 0], [0, 1, 0, 1]]
    """
    known, same = crf != IGNORE, crf == retrieved
    return known & same, known & ~same


def reliable_labels(crf: Tensor, retrieved: Tensor) -> Tensor:
    """Y_crf where both agree, 255 elsewhere; uint8 (..., H, W).

    >>> reliable_labels(torch.tensor([3, 3], dtype=torch.uint8), torch.tensor([3, 0], dtype=torch.uint8))
    tensor([  3, 255], dtype=torch.uint8)
    """
    return torch.where(agreement(crf, retrieved)[0], crf, IGNORE)


def confidence(cosines: Tensor, labels: Tensor, gamma: float = 7.0) -> Tensor:
    """Eqs. (11)-(12), sigma = (D_c* / max_c D_c)^gamma with D_c = 1 + cos(phi, W_c) and c* the label.

    Args:
        cosines: float (B, C + 1, H, W), -1 to 1.
        labels: uint8 (B, H, W), Y_crf; where it is 255 sigma is that of background and means nothing.
        gamma: damping, 1 or more; the larger, the nearer sigma is to 0 or 1.

    Returns:
        float (B, H, W), 0-1; 1 where the label is the class that the network itself would choose.

    >>> s = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)  # D = 1, 2
    >>> [float(confidence(s, torch.full((1, 1, 1), k, dtype=torch.uint8), gamma=2)) for k in (0, 1)]
    [0.25, 1.0]
    """
    d = 1 + cosines
    own = d.gather(1, _class(labels)[:, None])[:, 0]
    ratio = own / d.amax(dim=1).clamp(min=1e-12)
    return ratio.clamp(min=0) ** gamma  # rounding may put a cosine below -1


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log H_c*: float32 (B, H, W) of logits (B, C + 1, H, W) and labels uint8 (B, H, W); 0 where they are 255.

    >>> pixel_cross_entropy(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # ln 2
    tensor([[[0.6931]]])
    """
    return cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE, reduction="none")


def mean_over(loss: Tensor, pixels: Tensor, weight: Tensor | None = None, *, guard: bool = True) -> Tensor:
    """Mean of a pixel loss over some pixels, weighted or not: Eqs. (10) and (13).

    Args:
        loss: float (B, H, W).
        pixels: bool (B, H, W), S or ~S.
        weight: float (B, H, W), sigma, >= 0; None = 1.
        guard: 0 without pixels, and where all weights are 0; False: nan, as published.

    Returns:
        float ().

    >>> loss, pixels = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False])
    >>> mean_over(loss, pixels), mean_over(loss, pixels, torch.tensor([3.0, 1.0, 1.0]))
    (tensor(1.5000), tensor(1.2500))
    """
    share = pixels.to(loss) if weight is None else torch.where(pixels, weight, 0.0)
    total = share.sum()
    return (share * torch.where(pixels, loss, 0.0)).sum() / (torch.where(total > 0, total, 1.0) if guard else total)


def entropy(logits: Tensor) -> Tensor:
    """-sum_c H_c log H_c of each pixel, float (B, H, W): supplement, Eq. (4), before its mean.

    >>> entropy(torch.zeros(1, 2, 1, 1))  # ln 2
    tensor([[[0.6931]]])
    """
    log = logits.log_softmax(dim=1)
    return -(log.exp() * log).sum(dim=1)


def bootstrapped(logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """-sum_c Y_c log H_c with the target Y = beta onehot(label) + (1 - beta) H: supplement, Eqs. (6)-(7).

    The network's own opinion in the target is a constant: no gradient flows through it.

    Args:
        logits: float (B, C + 1, H, W).
        labels: uint8 (B, H, W), Y_crf; 255 counts as background and means nothing.
        beta: 1 trusts the label alone, 0 the network alone.

    Returns:
        float (B, H, W).
    """
    log = logits.log_softmax(dim=1)
    label = one_hot(_class(labels), logits.shape[1]).movedim(-1, 1)
    target = beta * label + (1 - beta) * log.detach().exp()
    return -(target * log).sum(dim=1)


def bootstrapping_beta(step: int, total: int, power: float = 0.9) -> float:
    """beta = (1 - t/T)^power, from 1 to 0 over the training (supplement, sec. 5).

    >>> bootstrapping_beta(0, 10), bootstrapping_beta(10, 10)
    (1.0, 0.0)
    """
    return float(max(0.0, 1 - step / total) ** power)


def _class(labels: Tensor) -> Tensor:
    return torch.where(labels == IGNORE, 0, labels).long()
