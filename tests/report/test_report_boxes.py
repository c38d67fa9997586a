"""Analyses of boxes on the page: violins in its colours, both conventions side by side, means over seeds."""

import json
import re

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from weakseg.report.boxes import class_columns, filling_cards, unreliable_rows
from weakseg.report.charts import BODY, SMALL, density, violins
from weakseg.report.html import render

EVIL = "<script>alert(1)</script>"
CLASSES = [f"cat {EVIL}", "dog"]


def evaluation(kind, result, seed=0):
    return {"seed": seed, "step": kind, "kind": kind, "title": f"T {kind}", "of": "x", "split": "train",
            "result": {"kind": kind, "classes": CLASSES, **result}}  # fmt: skip


def filling(seed=0, crf=(0.2, 0.6)):
    return evaluation("filling", {
        "sources": ["crf", "truth"], "boxes": 3, "mean": {"crf": 0.4 + 0.2 * seed, "truth": 0.5}, "error": {"crf": 0.1},
        "per_class": {"boxes": [2, 0], "mean": {}, "values": {"crf": [list(crf), []], "truth": [[0.5, 0.5], []]}},
        "images": 2, "left_out": 1}, seed)  # fmt: skip


def unreliable(seed=0):
    table = {key: [0.5, None, 0.7] for key in ("iou", "precision", "recall")}
    numbers = {"dropped": {"miou": 0.8 + 0.1 * seed, **table}, "as_errors": {"miou": 0.6, **table}}
    return evaluation("unreliable", {"share": 0.1, **numbers}, seed)


COVERAGE = evaluation("coverage", {"precision": 0.75, "recall": 0.5, "count": "sums of the maps' values",
                                   "per_class": {"precision": [0.75, None], "recall": [0.5, None]}})  # fmt: skip
BOXES = evaluation("box_classes", {"accuracy": 0.9, "as_background": 0.05, "per_class": [0.8, 1.0], "boxes": 20})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    evaluations = [filling(), filling(1, (0.3,)), unreliable(), unreliable(1), COVERAGE, BOXES]
    data = {"recipe": "bana", "seeds": [0, 1], "classes": CLASSES, "evaluations": evaluations}
    return render(json.loads(json.dumps(data)), tmp_path_factory.mktemp("run"))


def test_the_page_has_the_sections_and_escapes_names(page):
    for section in ("filling", "unreliable", "by-class"):
        assert page.count(f'<section id="{section}">') == 1
    assert EVIL not in page
    assert "off the truth by 10.0" in page
    assert "3 boxes in 2 photographs" in page
    assert "5.0 % taken for background" in page
    assert "T coverage, precision" in page
    assert "<th>T unreliable left out" in page[page.index('id="classes"') : page.index('id="filling"')]


def test_pages_without_these_analyses_have_no_such_section(tmp_path):
    page = render({"recipe": "cam", "seeds": [0], "classes": CLASSES, "evaluations": []}, tmp_path)
    assert not any(f'id="{section}"' in page for section in ("filling", "unreliable", "by-class"))


def test_colours_are_the_pages_own_in_light_and_dark(page):
    style = page[page.index("<style>") : page.index("</style>")]
    for rule in re.findall(r"\.(?:violin|quartiles|median)(?!s)[^{]*\{[^}]*\}", style):
        assert "var(--" in rule
        assert not re.search(r"#[0-9a-f]{3,8}", rule)
    charts = re.findall(r"<svg.*?</svg>", page[page.index('id="filling"') : page.index('id="unreliable"')], re.S)
    assert len(charts) == 1  # the class without boxes has none
    assert "fill=" not in charts[0]
    assert 'class="violin s0"' in charts[0]
    assert 'class="violin st"' in charts[0]


def test_seeds_are_pooled_but_the_truth_stands_once(monkeypatch):
    seen = []
    monkeypatch.setattr("weakseg.report.boxes.violins", lambda values, label: seen.append(values))
    card = filling_cards([[filling(), filling(1, (0.3,))]])[0]
    assert seen == [{"crf": [0.2, 0.6, 0.3], "truth": [0.5, 0.5]}]
    assert [s["mean"] for s in card["sources"]] == [pytest.approx(0.5), 0.5]
    assert [s["error"] for s in card["sources"]] == [pytest.approx(0.1), None]
    assert [c["name"] for c in card["classes"]] == CLASSES[:1]


def test_rows_and_columns_are_means_over_seeds():
    row = unreliable_rows([[unreliable(), unreliable(1)]])[0]
    assert (row["dropped"], row["as_errors"], row["share"]) == (pytest.approx(0.85), 0.6, 0.1)
    precision, recall, accuracy = class_columns([[COVERAGE], [BOXES]])
    assert (precision["values"], precision["all"]) == ([0.75, None], 0.75)
    assert (recall["values"], recall["all"]) == ([0.5, None], 0.5)
    assert (accuracy["values"], accuracy["all"]) == ([0.8, 1.0], 0.9)


# --- the chart ---


def test_a_violin_has_its_median_its_quartiles_and_its_widest_place():
    chart = str(violins({"crf": [0.5, 0.5, 0.5, 0.5], "truth": [0.0, 0.25, 0.75, 1.0]}, "dog"))
    height = SMALL[1] - 20
    medians = [float(v) for v in re.findall(r'cy="([\d.]+)"', chart)]
    assert medians == [pytest.approx(10 + height / 2)] * 2
    ends = re.findall(r'class="quartiles".*?y1="([\d.]+)" y2="([\d.]+)"', chart)
    assert [float(v) for v in ends[1]] == pytest.approx([10 + height * 0.1875, 10 + height * 0.8125], abs=0.06)
    outline = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', chart)[1].split()]
    x, y = zip(*outline, strict=True)
    assert 10 < min(y) < 10 + height / 2 < max(y) < 10 + height  # the outline ends where no box is
    assert max(x) - min(x) == pytest.approx(2 * BODY * (SMALL[0] - 30) / 2, abs=0.2)
    assert y[x.index(max(x))] == pytest.approx(10 + height / 2)
    assert "crf: median 50, middle half 50 to 50" in chart


def test_the_density_is_scipys_away_from_the_ends():
    values = np.random.default_rng(0).normal(0.5, 0.05, 400).clip(0, 1)
    at = np.linspace(0, 1, 33)
    spread = min(values.std(), np.subtract(*np.quantile(values, (0.75, 0.25))) / 1.34)
    width = max(0.9 * spread * len(values) ** -0.2, 0.03)
    reference = gaussian_kde(values, width / values.std(ddof=1))(at)
    np.testing.assert_allclose(density(values), reference / reference.max(), atol=1e-6)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1.0] * 50, [0.0, 1.0]])
def test_a_few_values_at_the_ends_have_a_shape(values):
    found = density(values)
    assert np.isfinite(found).all()
    assert found.max() == 1
    assert found[0 if values[0] == 0 else -1] == 1
