"""The page's interface over a real review, and what it refuses."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from weakseg import api
from weakseg.data.dataset import open_photos
from weakseg.data.store import read_label_map, write_label_map
from weakseg.studio import server
from weakseg.studio.review import Review
from weakseg.types import WeaksegError

OURS = {server.HEADER: "1"}
MASK = torch.tensor([[0, 1, 1, 2], [0, 0, 255, 2], [0, 0, 0, 0]], dtype=torch.uint8)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "photos").mkdir()
    for k, id in enumerate(("a", "blå é?#&")):  # names that an address has to escape
        Image.fromarray(np.full((3, 4, 3), 80 * k, np.uint8)).save(tmp_path / "photos" / f"{id}.png")
        write_label_map(tmp_path / "made" / f"{id}.png", MASK)
    (tmp_path / "made" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


@pytest.fixture
def review(place):
    photos = open_photos(place / "photos", classes=("cat", "dog"))
    return Review(photos, {id: place / "made" / f"{id}.png" for id in photos.ids}, ("cat", "dog"), place / "out")


@pytest.fixture
def client(review):
    with TestClient(server.make_app(review), base_url="http://127.0.0.1:8008") as client:
        yield client


def test_the_page_and_all_that_it_names_are_served_and_nothing_is_inline(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert sorted(named) == ["/icon.svg", "/studio.css", "/studio.js"]
    imports = re.findall(r'from "(/[^"]+)"', client.get("/studio.js").text)
    assert imports == ["/drawing.js"]
    assert all(client.get(path).status_code == 200 for path in named + imports)
    assert not re.search(r"<style|\son\w+=|style=", page.text)  # the policy would stop it
    shipped = {file.name for file in (files("weakseg.studio") / "static").iterdir()}
    assert shipped == {name for name, _ in server.STATIC.values()}


def test_the_scripts_find_every_element_that_they_name(client):
    page, script = client.get("/").text, client.get("/studio.js").text
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', script))
    assert len(wanted) > 15
    assert wanted <= set(re.findall(r'id="([\w-]+)"', page))


def test_the_overview_tells_classes_photographs_and_counts(client, review):
    told = client.get("/api/review").json()
    assert [c["name"] for c in told["classes"]] == ["background", "cat", "dog", "undecided"]
    assert told["classes"][1]["colour"] == [128, 0, 0]
    assert [p["id"] for p in told["photographs"]] == list(review.ids)
    assert told["counts"] == {"open": 2, "accepted": 0, "rejected": 0, "edited": 0}


@pytest.mark.parametrize("id", ["a", "bl%C3%A5%20%C3%A9%3F%23%26"])
def test_photograph_thumbnail_and_mask(client, id):
    for what in ("photo", "thumb"):
        answer = client.get(f"/api/{what}/{id}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (4, 3)
    assert client.get(f"/api/mask/{id}").content == bytes(MASK.flatten().tolist())


def test_a_correction_a_decision_and_back(client, place):
    mended = bytes([2] * 12)
    told = client.put("/api/mask/a", content=mended, headers=OURS).json()
    assert told["photograph"]["edited"]
    assert told["counts"]["edited"] == 1
    assert client.get("/api/mask/a").content == mended
    told = client.put("/api/decision/a", json={"decision": "accepted"}, headers=OURS).json()
    assert told["photograph"]["decision"] == "accepted"
    assert read_label_map(place / "out/masks/a.png").flatten().tolist() == [2] * 12
    told = client.delete("/api/mask/a", headers=OURS).json()
    assert not told["photograph"]["edited"]
    assert torch.equal(read_label_map(place / "out/masks/a.png"), MASK)


def test_refining_answers_with_labels_and_keeps_nothing(client, review):
    answer = client.post("/api/refine/a", content=bytes(MASK.flatten().tolist()), headers=OURS)
    assert len(answer.content) == 12
    assert max(answer.content) <= 2
    assert not review.entry("a")["edited"]


@pytest.mark.parametrize(
    ("method", "path", "content", "code", "said"),
    [
        ("GET", "/api/mask/nobody", b"", 404, "no photograph 'nobody'"),
        ("GET", "/api/photo/..%2F..%2Fetc%2Fpasswd", b"", 404, ""),
        ("PUT", "/api/mask/a", bytes(11), 400, "11 bytes for a photograph of 12 pixels"),
        ("PUT", "/api/mask/a", bytes(13), 400, "more than the 12 bytes"),
        ("PUT", "/api/mask/a", bytes([9] * 12), 400, "id 9"),
        ("PUT", "/api/decision/a", b"{", 400, "a decision is JSON"),
        ("PUT", "/api/decision/a", b"[]", 400, "one of open, accepted, rejected"),
        ("PUT", "/api/decision/a", b'{"decision": "gone"}', 400, "one of open, accepted, rejected"),
        ("PUT", "/api/decision/a", b" " * 2000, 400, "more than the 1000 bytes"),
        ("POST", "/api/mask/a", b"", 405, ""),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(client, review, method, path, content, code, said):
    answer = client.request(method, path, content=content, headers=OURS)
    assert answer.status_code == code
    assert said in answer.text
    assert review.counts() == {"open": 2, "accepted": 0, "rejected": 0, "edited": 0}


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/api/decision/a"), ("DELETE", "/api/mask/a"), ("POST", "/api/refine/a")]
)
def test_a_change_without_our_header_is_refused(client, review, method, path):
    assert client.request(method, path, content=json.dumps({"decision": "rejected"})).status_code == 403
    assert review.counts()["open"] == 2


def test_another_name_for_this_machine_is_refused(review):
    with TestClient(server.make_app(review), base_url="http://evil.example") as client:
        assert client.get("/api/review").status_code == 400


def test_a_port_that_is_taken_is_one_sentence(review):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(WeaksegError, match=f"port {port} cannot be had"):
            server.serve(review, port=port, browser=False, say=lambda line: None)


def test_the_verb_serves_a_page_that_a_client_can_use(place, monkeypatch):
    """`api.review` with a real server on a free port, ended as Ctrl+C would."""
    lines, running = [], []
    begin = server.uvicorn.Server

    def kept(config):
        running.append(begin(config))
        return running[0]

    def person():
        while not lines:
            pass
        address = lines[0].split()[2]
        request = urllib.request.Request(
            f"{address}/api/decision/a", method="PUT", data=b'{"decision": "accepted"}', headers=OURS
        )
        while not running or not running[0].started:
            pass
        with urllib.request.urlopen(request, timeout=10) as answer:
            lines.append(json.loads(answer.read())["photograph"]["decision"])
        running[0].should_exit = True

    monkeypatch.setattr(server.uvicorn, "Server", kept)
    helper = threading.Thread(target=person)
    helper.start()
    counts = api.review(
        place / "made", place / "photos", place / "out", port=0, browser=False, progress=False, say=lines.append
    )
    helper.join()
    assert counts == {"open": 1, "accepted": 1, "rejected": 0, "edited": 0}
    assert lines[1] == "accepted"
    assert (place / "out/masks/a.png").is_file()


def test_without_the_extra_the_verb_says_how_to_get_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "weakseg.studio.server")
    with pytest.raises(WeaksegError, match=r"needs uvicorn; install it with `pip install weakseg\[review\]`"):
        api.review(
            place / "made", place / "photos", place / "out", browser=False, progress=False, say=lambda line: None
        )
    assert not (place / "out").exists()


@pytest.mark.slow
def test_ctrl_c_ends_the_review_in_order_and_tells_what_was_decided(place):
    command = [
        sys.executable,
        "-m",
        "weakseg",
        "review",
        "made",
        "photos",
        "--out",
        "out",
        "--port",
        "0",
        "--no-browser",
    ]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stderr if "review page:" in line)
        request = urllib.request.Request(
            f"{line.split()[2]}/api/decision/a", method="PUT", data=b'{"decision": "rejected"}', headers=OURS
        )
        try:
            with urllib.request.urlopen(request, timeout=60):
                process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "0 accepted, 1 rejected, 1 open" in told
    assert "Traceback" not in told
