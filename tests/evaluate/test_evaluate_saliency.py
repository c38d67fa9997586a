"""Errors of saliency maps against counting pixel by pixel, and the sweeps of EPS on plain tensors."""

import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score, precision_score, recall_score

from weakseg.evaluate.saliency import (
    absolute_error,
    evaluate_saliency,
    f_measure,
    foreground_share,
    lambda_errors,
    precision_recall,
)
from weakseg.methods.eps import estimated_saliency, saliency_loss


def maps(seed, size=(20, 30)):
    g = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 3, size, generator=g).to(torch.uint8)
    truth[:3] = 255
    saliency = (0.5 * torch.rand(size, generator=g) + 0.5 * (truth == 1)).clamp(0, 1)
    return saliency, truth


def test_precision_and_recall_against_sklearn():
    saliency, truth = maps(0)
    known = truth != 255
    foreground = known & (truth > 0)
    thresholds = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    precision, recall = precision_recall(saliency, foreground, known, thresholds)
    for k, t in enumerate(thresholds.tolist()):
        y, found = foreground[known].numpy(), (saliency[known] > t).numpy()
        p, r = precision_score(y, found, zero_division=0), recall_score(y, found)
        assert (float(precision[k]), float(recall[k])) == (pytest.approx(p), pytest.approx(r))
        f = fbeta_score(y, found, beta=np.sqrt(0.3), zero_division=0)
        assert float(f_measure(precision[k], recall[k])) == pytest.approx(f)


def test_a_list_of_maps():
    data = {f"p{k}": maps(k) for k in range(4)}
    truths = {id: t for id, (_, t) in data.items()}
    truths["p3"] = None

    def read(id):
        return data[id][0][None]

    result = evaluate_saliency(read, lambda id: read(id) / 2, truths.get, list(data), threads=2)
    assert (result["photographs"], result["without_truth"]) == (4, 1)
    assert result["error_to_given"] == pytest.approx(np.mean([float(s.mean()) / 2 for s, _ in data.values()]))
    known = [(s[t != 255], (t[t != 255] > 0).float()) for s, t in (data[f"p{k}"] for k in range(3))]
    assert result["estimated"]["error"] == pytest.approx(np.mean([float((s - f).abs().mean()) for s, f in known]))
    p = np.mean([precision_score(f, s > 0.5) for s, f in known])
    r = np.mean([recall_score(f, s > 0.5) for s, f in known])
    assert result["estimated"]["f_measure"] == pytest.approx(1.3 * p * r / (0.3 * p + r))
    assert result["estimated"]["best"]["f_measure"] == max(result["estimated"]["curve"])
    assert result["given"]["error"] > 0
    alone = evaluate_saliency(read, lambda id: None, lambda id: None, list(data))
    assert alone["error_to_given"] is alone["given"] is alone["estimated"] is None


def test_photographs_without_foreground_or_with_nothing_known():
    dark, nothing = torch.zeros(1, 4, 4), torch.full((4, 4), 255, dtype=torch.uint8)
    empty = torch.zeros(4, 4, dtype=torch.uint8)
    result = evaluate_saliency(lambda id: dark, lambda id: dark, lambda id: empty if id == "a" else nothing, ["a", "b"])
    assert result["without_truth"] == 1
    assert (result["estimated"]["error"], result["estimated"]["f_measure"], result["error_to_given"]) == (0, 0, 0)
    assert np.isnan(absolute_error(dark[0], dark[0], torch.zeros(4, 4, dtype=torch.bool)))


def test_sweeps_of_eps():
    g = torch.Generator().manual_seed(0)
    fg, bg, saliency = (torch.rand(1, 5, 6, generator=g) for _ in range(3))
    lams = [0.0, 0.25, 0.5, 0.9, 1.0]
    wanted = [float(saliency_loss(saliency, estimated_saliency(fg, bg, lam))) for lam in lams]
    assert lambda_errors(fg, bg, saliency, lams).tolist() == pytest.approx(wanted)
    share = foreground_share(torch.tensor([[0.41, torch.nan], [0.39, torch.nan], [0.4, torch.nan]]), [0.4])
    assert float(share[0, 0]) == pytest.approx(1 / 3)  # tau itself is background
    assert share[0, 1].isnan()
