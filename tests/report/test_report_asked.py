"""Map selection and probes on the page: means over seeds, words for what the network was fed."""

import json

from weakseg.report.asked import probe_cards, selection_cards
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


def test_the_page_shows_both_and_escapes_names(tmp_path):
    data = {"recipe": "eps", "seeds": [0], "classes": CLASSES, "evaluations": [selection(0, 0.0), probes(0, 0.5)]}
    page = render(json.loads(json.dumps(data)), tmp_path)
    assert page.count('<section id="selection">') == page.count('<section id="probes">') == 1
    assert EVIL not in page
    assert "0.2000" in page
    assert "every tag" in page
    none = render({"recipe": "cam", "seeds": [0], "classes": CLASSES, "evaluations": []}, tmp_path)
    assert 'id="selection"' not in none
    assert 'id="probes"' not in none
