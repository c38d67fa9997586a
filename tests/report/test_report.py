"""The report of a made-up run: complete, self-contained, and safe against what stands in its data."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from weakseg.data.store import colour
from weakseg.evaluate.conventions import CONVENTIONS
from weakseg.evaluate.masks import evaluate_masks
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.report.charts import histogram, threshold_curve
from weakseg.report.figures import colour_mask, heatmap, instance_overlay, jpeg, overlay
from weakseg.report.gallery import pick
from weakseg.report.html import number, points, write_report
from weakseg.types import Instances, ScoreMap, WeaksegError

CLASSES = ["cat", "dog <b>"]
EVIL = "<script>alert(1)</script>"


def photograph(seed, size=(24, 32)):
    g = torch.Generator().manual_seed(seed)
    truth = torch.zeros(size, dtype=torch.uint8)
    truth[4:16, 5:20] = 1 + seed % 2
    truth[0] = 255
    scores = (0.6 * torch.rand(size, generator=g) + 0.4 * (truth > 0)).clamp(0, 1)
    image = torch.randint(0, 256, (3, *size), generator=g, dtype=torch.uint8)
    return image, truth, ScoreMap(torch.tensor([1 + seed % 2], dtype=torch.uint8), scores[None], size)


def report(run, seeds=(0, 1, 2)):
    """A run folder as the pipeline leaves it."""
    evaluations, gallery = [], []
    values = {"fixed": [], "best": [], "masks": []}
    for seed in seeds:
        data = {f"p{k}": photograph(10 * seed + k) for k in range(6)}
        sweep = evaluate_scores(lambda id, d=data: d[id][2], lambda id, d=data: d[id][1], list(data), CLASSES)
        masks = evaluate_masks(
            lambda id, d=data: (d[id][2].dense(3).amax(0) > 0.5).byte(),
            lambda id, d=data: d[id][1],
            list(data),
            CLASSES,
        )
        tags = {"per_class": [0.9, None], "mean": 0.9, "chance": 0.5}
        for kind, result in (("sweep", sweep), ("masks", masks), ("tags", tags)):
            evaluations.append(
                {
                    "seed": seed,
                    "step": f"eval-{kind}",
                    "kind": kind,
                    "of": "cam/full",
                    "split": "train",
                    "result": result,
                }
            )
        values["fixed"].append(sweep["fixed"]["miou"])
        values["best"].append(sweep["best"]["miou"])
        values["masks"].append(masks["miou"])
        for id, rank in pick(masks["per_image"], n=1):
            image, truth, scores = data[id]
            pictures = {"photo": image, "truth": overlay(image, truth), "scores": heatmap(image, scores)}
            images = {}
            for what, picture in pictures.items():
                file = run / f"seed-{seed}" / "gallery" / f"{id}-{what}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(jpeg(picture))
                images[what] = file.relative_to(run).as_posix()
            gallery.append({"seed": seed, "id": id, "miou": masks["per_image"][id], "rank": rank, "images": images})
    names = {"fixed": "score maps, fixed threshold", "best": "score maps, best threshold", "masks": "masks"}
    content = {
        "recipe": "cam-crf-mobile",
        "seeds": list(seeds),
        "classes": CLASSES,
        "summary": [
            {
                "name": names[key],
                "step": "cam",
                "split": "train",
                "values": v,
                "unit": "mIoU",
                "mean": float(np.mean(v)),
                "std": float(np.std(v, ddof=1)) if len(v) > 1 else None,
            }
            for key, v in values.items()
        ],
        "conventions": dict(CONVENTIONS),
        "findings": [
            {"seed": s, "step": "cam", "level": level, "title": f"title {level}", "text": f"text {s} {EVIL}"}
            for s in seeds
            for level in ("ok", "warning", "error")
        ],
        "times": [{"seed": s, "step": "cam", "stage": "fit", "seconds": 83.0, "images_per_second": 12.5} for s in seeds]
        + [{"seed": s, "step": "cam", "stage": "all", "seconds": 3.0} for s in seeds],
        "evaluations": evaluations,
        "gallery": gallery,
        "versions": {"torch": "2.6.0"},
        "command": f"weakseg run cam-crf-mobile --set a={EVIL}",
    }
    (run / "report.json").write_text(json.dumps(content))
    return content


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    content = report(run)
    page = write_report(run)
    assert page == run / "report.html"
    return content, page.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Every element that opens is closed, in order."""

    VOID = frozenset({"meta", "img", "link", "br", "rect", "line", "circle", "polyline", "polygon"})

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(page):
    balance = Balance()
    balance.feed(page)
    assert not balance.open
    return balance.seen


def test_the_page_is_whole_and_asks_nobody_for_anything(made):
    content, page = made
    elements = parsed(page)
    assert {"svg", "table", "style", "img"} <= {tag for tag, _ in elements}
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in elements}
    addresses = [v for _, attrs in elements for k, v in attrs.items() if k in ("src", "href", "srcset", "action")]
    assert len(addresses) == 3 * len(content["gallery"])
    assert all(a.startswith("data:image/jpeg;base64,") for a in addresses)
    assert not re.search(r"https?:|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_embedded_images_are_the_files(made):
    _, page = made
    uris = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    picture = Image.open(io.BytesIO(base64.b64decode(uris[0])))
    assert picture.size == (32, 24)


def test_a_ratio_is_no_percentage():
    assert (number(0.4412, "mIoU"), number(1.77617, "FP / TP"), number(0.25, "plateau width")) == (
        "44.1",
        "1.78",
        "0.25",
    )


def test_the_headline_tells_mean_spread_and_what_used_the_truth(made):
    content, page = made
    table = page.split('<table class="headline">')[1].split("</table>")[0]
    rows = re.split(r"<tr", table)[2:]
    assert len(rows) == 3
    for row, summary in zip(rows, content["summary"], strict=True):
        assert summary["name"] in row
        assert f"{100 * summary['mean']:.1f}" in row
        assert f"± {100 * summary['std']:.1f}" in row
        assert row.count('<b style="left:') == 3
    assert [("uses truth" in row) for row in rows] == [False, True, False]


def test_every_section_is_there(made):
    _, page = made
    for section in ("numbers", "health", "thresholds", "classes", "tags", "gallery", "times", "conventions", "again"):
        assert f'<section id="{section}">' in page
    assert CONVENTIONS["predicted 255"] in page
    assert "1 min 23 s" in page
    assert "2.6.0" in page
    for rank in ("best", "median", "worst"):
        assert f'<span class="tag">{rank}</span>' in page
    assert page.count("<summary>Seed ") == 2  # the first seed is open, the others are folded


def test_data_is_escaped(made):
    _, page = made
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert "dog &lt;b&gt;" in page


def test_findings_of_several_seeds_stand_once_errors_first(made):
    _, page = made
    order = [page.index(f"title {level}") for level in ("error", "warning", "ok")]
    assert order == sorted(order)
    assert page.count("title error") == 1
    assert "seed 0, 1, 2" in page


def test_class_bars_have_the_length_of_the_mean_iou(made):
    content, page = made
    masks = [e["result"]["iou"][1] for e in content["evaluations"] if e["kind"] == "masks"]
    row = page.split("</i>cat</td>")[1].split("</tr>")[0]
    assert f'width: {100 * np.mean(masks):.1f}%"' in row


def test_one_seed_has_no_spread_and_an_empty_run_still_has_a_page(tmp_path):
    report(tmp_path, seeds=(0,))
    page = write_report(tmp_path).read_text()
    parsed(page)
    assert "±" not in page.split('<table class="headline">')[1].split("</table>")[0]
    assert "too few for a claim" in page
    (tmp_path / "report.json").write_text('{"recipe": "empty"}')
    page = write_report(tmp_path).read_text()
    parsed(page)
    assert "measured nothing" in page


def test_an_evaluation_that_departs_from_the_conventions_is_named(tmp_path):
    content = report(tmp_path, seeds=(0,))
    truth = photograph(0)[1]
    result = evaluate_masks(lambda id: truth, lambda id: truth, ["a"], CLASSES, ignored_prediction="drop", absent="irn")
    content["evaluations"][1]["result"] = result
    (tmp_path / "report.json").write_text(json.dumps(content))
    page = write_report(tmp_path).read_text()
    assert "departs from this: predicted 255 drop" in page
    assert "as in EPS" in page


def test_missing_images_are_told_and_paths_stay_inside(tmp_path):
    content = report(tmp_path, seeds=(0,))
    (tmp_path / content["gallery"][0]["images"]["photo"]).unlink()
    assert "not in the run folder" in write_report(tmp_path).read_text()
    for path in ("../secret.jpg", "/etc/secret.png", "report.json"):
        content["gallery"][0]["images"]["photo"] = path
        (tmp_path / "report.json").write_text(json.dumps(content))
        with pytest.raises(WeaksegError, match="inside the run folder"):
            write_report(tmp_path)


def test_damaged_reports_are_sentences(tmp_path):
    with pytest.raises(WeaksegError, match="cannot be read"):
        write_report(tmp_path)
    for text, words in (("[1", "JSON"), ("[]", "holds no report"), ('{"summary": [{"unit": "mIoU"}]}', "damaged")):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(WeaksegError, match=words):
            write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


# --- charts ---


def test_the_curve_marks_the_fixed_and_the_best_threshold():
    thresholds = [k / 10 for k in range(11)]
    curves = [[0.1 + 0.05 * k - 0.006 * k * k + s for k in range(11)] for s in (0, 0.02)]
    svg = threshold_curve(thresholds, curves, fixed=0.2, plateau=(0.3, 0.5))
    assert svg.count("<polyline") == 3
    assert "fixed 0.200" in svg
    assert "best 0.400" in svg
    [x_fixed] = re.findall(r'<circle class="fixed" cx="([\d.]+)"', svg)
    [points_] = re.findall(r'<polyline class="curve" points="([^"]+)"', svg)
    xy = [tuple(map(float, p.split(","))) for p in points_.split()]
    assert float(x_fixed) == xy[2][0]
    assert min(xy, key=lambda p: p[1]) == xy[4]  # the highest point of the drawing is the best threshold


def test_histogram_bars_are_as_high_as_their_counts():
    svg = histogram([0, 0.25, 0.5, 0.75, 1], [1, 4, 0, 2], "a < b")
    heights = [float(h) for h in re.findall(r'class="bin"[^>]* height="([\d.]+)"', svg)]
    np.testing.assert_allclose(np.array(heights) / max(heights), [0.25, 1, 0, 0.5], atol=0.01)
    assert "a &lt; b" in svg


# --- figures ---


def test_instances_are_drawn_apart_the_better_one_on_top_and_doubtful_ones_not_at_all():
    masks = torch.zeros(3, 90, 100, dtype=torch.bool)
    masks[0, 20:60, 10:50] = masks[1, 20:60, 30:90] = True
    masks[2, 70:, :] = True
    boxes = torch.tensor([[10.0, 20, 50, 60], [30, 20, 90, 60], [0, 70, 100, 90]])
    found = Instances(masks, torch.tensor([2, 2, 1]), torch.tensor([0.6, 0.9, 0.4]), boxes)
    photo = torch.zeros(3, 90, 100, dtype=torch.uint8)
    shown = instance_overlay(photo, found, ["cat", "dog"])
    assert shown.shape == (90, 100, 3)
    alone, shared, other = (shown[50, x].tolist() for x in (20, 40, 80))
    assert shared == other != alone
    assert not shown[65:].any()
    assert shown[20:45, 35:85].max() == 255  # its name
    assert not instance_overlay(photo, found, ["cat", "dog"], least=0.95).any()
    assert instance_overlay(photo, found, ["cat", "dog"], long_side=50).shape == (45, 50, 3)


def test_overlay_colours_objects_dims_background_and_leaves_its_inputs():
    image, truth, _ = photograph(0)
    before = image.clone(), truth.clone()
    picture = overlay(image, truth)
    assert picture.shape == (24, 32, 3)
    assert picture.dtype == np.uint8
    inside, outside = (8, 10), (20, 25)
    expected = 0.38 * image[:, 8, 10].numpy() + 0.62 * np.array(colour(1))
    assert np.abs(picture[inside] - expected).max() <= 0.5
    assert np.abs(picture[outside] - 0.75 * image[:, 20, 25].numpy()).max() <= 0.5
    assert (picture[15, 10] == 255).all()  # the border
    assert torch.equal(image, before[0])
    assert torch.equal(truth, before[1])
    assert overlay(image, truth[::2, ::2]).shape == (24, 32, 3)


def test_heat_grows_with_the_score():
    scores = torch.linspace(0, 1, 32).expand(24, 32).clone()
    grey = torch.full((3, 24, 32), 100, dtype=torch.uint8)
    picture = heatmap(grey, ScoreMap(torch.tensor([1], dtype=torch.uint8), scores[None], (24, 32)))
    assert (np.diff(picture.astype(int).sum(2)[0]) >= 0).all()
    nothing = ScoreMap(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 3, 4), (24, 32))
    background = ScoreMap(torch.zeros(1, dtype=torch.uint8), torch.ones(1, 3, 4), (24, 32))
    assert np.array_equal(heatmap(grey, nothing), heatmap(grey, background))


def test_colour_mask_is_the_palette_and_jpeg_shrinks():
    labels = torch.tensor([[0, 15], [255, 3]], dtype=torch.uint8)
    assert colour_mask(labels)[0, 1].tolist() == list(colour(15))
    wide = torch.zeros(3, 100, 2000, dtype=torch.uint8)
    assert Image.open(io.BytesIO(jpeg(wide))).size == (640, 32)
    assert Image.open(io.BytesIO(jpeg(wide, long_side=None))).size == (2000, 100)
    with pytest.raises(WeaksegError, match="photograph"):
        overlay(torch.zeros(4, 4), labels)


# --- gallery ---


@pytest.mark.parametrize("count", range(14))
def test_picks_are_ranked_and_never_twice(count):
    per_image = {f"p{k:02d}": (k * 7 % 13) / 13 for k in range(count)}
    picked = pick(per_image, n=3)
    ids = [id for id, _ in picked]
    assert len(ids) == len(set(ids)) == min(9, count if count < 3 else 3 * (count // 3))
    by_rank = {rank: [per_image[i] for i, r in picked if r == rank] for rank in ("best", "median", "worst")}
    if count >= 3:
        assert min(by_rank["best"]) >= max(by_rank["median"])
        assert min(by_rank["median"]) >= max(by_rank["worst"])
        assert max(by_rank["best"]) == max(per_image.values())
        assert by_rank["worst"][0] == min(per_image.values())


def test_the_median_is_the_median():
    picked = pick({f"p{k}": k / 100 for k in range(101)}, n=1)
    assert picked == [("p100", "best"), ("p50", "median"), ("p0", "worst")]


def test_words_for_numbers():
    assert points(0.4412) == "44.1"
    assert points(None) == "\N{EN DASH}"
