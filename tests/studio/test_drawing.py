"""The page's drawing against scipy and Pillow, run by Node where there is one."""

import json
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy import ndimage

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node runs the page's script")

SCRIPT = """
import * as drawing from %s;
const map = { labels: new Uint8Array(%s), width: %d, height: %d };
const said = %s;
console.log(JSON.stringify({ labels: [...map.labels], said }));
"""


def draw(labels, expression, tmp_path):
    """(labels after, what the expression said) of a change to a map uint8 (H, W)."""
    copy = tmp_path / "drawing.mjs"
    copy.write_bytes((files("weakseg.studio") / "static" / "drawing.js").read_bytes())
    height, width = labels.shape
    script = tmp_path / "run.mjs"
    script.write_text(SCRIPT % (json.dumps("./drawing.mjs"), labels.flatten().tolist(), width, height, expression))
    done = subprocess.run([NODE, script], capture_output=True, text=True, check=True, timeout=60)
    told = json.loads(done.stdout)
    return np.array(told["labels"], np.uint8).reshape(labels.shape), told["said"]


def rectangle(changed):
    ys, xs = np.nonzero(changed)
    return {"x0": int(xs.min()), "y0": int(ys.min()), "x1": int(xs.max()) + 1, "y1": int(ys.max()) + 1}


def centres(height, width):
    y, x = np.mgrid[:height, :width]
    return x + 0.5, y + 0.5


def test_the_brush_paints_what_is_within_its_radius_of_the_line(tmp_path):
    before = np.zeros((30, 40), np.uint8)
    after, said = draw(before, "drawing.capsule(map, {x: 5.2, y: 6.1}, {x: 33.7, y: 21.4}, 4.5, 3)", tmp_path)
    x, y = centres(30, 40)
    a, d = np.array([5.2, 6.1]), np.array([28.5, 15.3])
    t = (((x - a[0]) * d[0] + (y - a[1]) * d[1]) / (d @ d)).clip(0, 1)
    wanted = np.hypot(x - a[0] - t * d[0], y - a[1] - t * d[1]) <= 4.5
    assert np.array_equal(after, 3 * wanted)
    assert said == rectangle(wanted)


def test_the_brush_stays_inside_the_photograph(tmp_path):
    after, said = draw(np.zeros((6, 8), np.uint8), "drawing.capsule(map, {x: -2, y: -2}, {x: 0, y: 0}, 2, 1)", tmp_path)
    assert np.argwhere(after).tolist() == [[0, 0], [0, 1], [1, 0]]
    assert said == {"x0": 0, "y0": 0, "x1": 2, "y1": 2}


def test_the_lasso_fills_the_pixels_whose_centres_it_holds(tmp_path):
    points = np.random.default_rng(0).uniform((-3, -3), (43, 33), (7, 2)).round(2)  # crosses itself and the border
    given = json.dumps([{"x": x, "y": y} for x, y in points.tolist()])
    after, said = draw(np.full((30, 40), 9, np.uint8), f"drawing.polygon(map, {given}, 2)", tmp_path)
    x, y = centres(30, 40)
    crossings = np.zeros(x.shape, int)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        crosses = (y0 <= y) != (y1 <= y)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings += crosses & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x)
    wanted = crossings % 2 == 1
    assert np.array_equal(after, np.where(wanted, 2, 9))
    assert said == rectangle(wanted)


def test_a_simple_lasso_agrees_with_matplotlib(tmp_path):
    points = [(3.3, 2.2), (30.4, 5.1), (22.8, 25.6), (12.1, 14.9)]
    given = json.dumps([{"x": x, "y": y} for x, y in points])
    after, _ = draw(np.zeros((30, 40), np.uint8), f"drawing.polygon(map, {given}, 1)", tmp_path)
    x, y = centres(30, 40)
    inside = Outline([*points, points[0]], closed=True).contains_points(np.stack([x.ravel(), y.ravel()], 1))
    assert np.array_equal(after.ravel().astype(bool), inside)


def test_filling_takes_the_region_and_no_more(tmp_path):
    before = np.random.default_rng(1).integers(0, 2, (25, 33)).astype(np.uint8)
    regions, _ = ndimage.label(before == before[12, 16])
    region = regions == regions[12, 16]
    after, said = draw(before, "drawing.flood(map, 16, 12, 7)", tmp_path)
    assert np.array_equal(after, np.where(region, 7, before))
    assert said == rectangle(region)


def test_filling_with_the_label_that_is_there_ends(tmp_path):
    before = np.ones((4, 4), np.uint8)
    after, said = draw(before, "drawing.flood(map, 1, 1, 1)", tmp_path)
    assert np.array_equal(after, before)
    assert said["x0"] is None  # infinity: an empty rectangle


def test_what_is_cut_is_put_back(tmp_path):
    before = np.arange(48, dtype=np.uint8).reshape(6, 8)
    rect = "{x0: 2, y0: 1, x1: 7, y1: 4}"
    expression = f"(() => {{ const p = drawing.cut(map, {rect}); map.labels.fill(0); drawing.paste(map, p, {rect}); return [...p]; }})()"
    after, said = draw(before, expression, tmp_path)
    wanted = np.zeros_like(before)
    wanted[1:4, 2:7] = before[1:4, 2:7]
    assert np.array_equal(after, wanted)
    assert said == before[1:4, 2:7].flatten().tolist()
