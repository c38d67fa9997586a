"""Map selection, probes and kept networks on the page: means over seeds, words for what a network was fed."""

import json

from weakseg.report.asked import checkpoint_cards, probe_cards, selection_cards
from weakseg.report.html import render

EVIL = "<script>alert(1)</script>"
CLASSES = [f"cat {EVIL}", "dog"]


def selection(seed, shift):
    result = {"classes": CLASSES, "overlap": [0.5, None], "taus": [0.2, 0.4], "lams": [0.0, 0.5],
              "share": [[0.9 + shift, None], [0.4, None]], "loss": [0.2 + shift, 0.1]}  # fmt: skip
    return {"seed": seed, "step": "selection", "kind": "selection", "title": "Map selection", "split": "val",
            "result": result}  # fmt: skip


def probes(seed, miou):
    def told(value):
        return {"fixed": {"miou": value}, "best": {"miou": 0.7}, "plateau_width": 0.25, "area": 0.4}

    result = {"classes": CLASSES, "probes": {"label": told(miou), "ones": told(None)}}
    return {"seed": seed, "step": "probes", "kind": "probes", "title": "Probes", "split": "train", "result": result}


def checkpoints(seed, miou, best):
    rows = [{"name": "epoch-1", "miou": miou, "threshold": 0.2}, {"name": "final", "miou": 0.4, "threshold": None}]
    result = {"checkpoints": rows, "best": {"name": best}, "final": rows[-1]}
    return {"seed": seed, "step": "epochs", "kind": "checkpoints", "title": "Epochs", "split": "train",
            "result": result}  # fmt: skip


def test_selection_is_the_mean_over_seeds():
    (card,) = selection_cards([[selection(0, 0.0), selection(1, 0.1)]])
    assert card["shares"]["columns"] == ["tau 0.2", "tau 0.4"]
    assert [cell["text"] for cell in card["shares"]["rows"][0]["cells"]] == ["0.95", "0.40"]
    assert [cell["text"] for cell in card["shares"]["rows"][1]["cells"]] == 2 * ["\N{EN DASH}"]
    assert [row["lam"] for row in card["losses"]] == [0.0, 0.5]
    assert [round(row["loss"], 6) for row in card["losses"]] == [0.25, 0.1]
    assert [round(row["bar"], 6) for row in card["losses"]] == [1.0, 0.4]


def test_probes_are_told_in_words():
    (card,) = probe_cards([[probes(0, 0.5), probes(1, 0.6)]])
    own, every = card["rows"]
    assert (own["fed"], every["fed"]) == ("the photograph's tags", "every tag")
    assert round(own["fixed"], 6) == 0.55
    assert every["fixed"] is None
    assert (own["plateau"], own["area"]) == (0.25, 0.4)


def test_kept_networks_and_how_often_each_was_best():
    (card,) = checkpoint_cards([[checkpoints(0, 0.5, "epoch-1"), checkpoints(1, 0.6, "final")]])
    first, final = card["rows"]
    assert (first["name"], final["name"]) == ("epoch-1", "final")
    assert round(first["miou"], 6) == 0.55
    assert (first["best"], final["best"]) == (1, 1)
    assert (first["thresholds"], final["thresholds"]) == ([0.2, 0.2], [])


def test_the_page_shows_all_and_escapes_names(tmp_path):
    evaluations = [selection(0, 0.0), probes(0, 0.5), checkpoints(0, 0.5, "epoch-1")]
    data = {"recipe": "eps", "seeds": [0], "classes": CLASSES, "evaluations": evaluations}
    page = render(json.loads(json.dumps(data)), tmp_path)
    for name in ("selection", "probes", "checkpoints"):
        assert page.count(f'<section id="{name}">') == 1
    assert EVIL not in page
    assert "0.2000" in page
    assert "every tag" in page
    none = render({"recipe": "cam", "seeds": [0], "classes": CLASSES, "evaluations": []}, tmp_path)
    assert 'id="selection"' not in none
    assert 'id="probes"' not in none
    assert 'id="checkpoints"' not in none
