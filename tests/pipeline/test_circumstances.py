"""What a page says beside its numbers, from manifests made by hand."""

from weakseg.pipeline.circumstances import circumstances


def spec(name, method, *, fit="train", lists=(), seeds=None, scores=None):
    return {
        "name": name, "method": method, "fit": fit, "list": list(lists), "model": None,
        "seeds": seeds or {}, "scores": scores or {},
    }  # fmt: skip


def step(name, method, constants, *, fit=0, outputs=10, backbone=None, weights=None):
    return {
        "name": name, "method": method, "constants": constants, "photographs": {"fit": fit, "outputs": outputs},
        "backbone": backbone and {"name": backbone}, "weights_sha256": weights,
    }  # fmt: skip


SPECS = [
    spec("cam", "cam.resnet50", lists=["train", "val"]),
    spec("threshold", "labels.threshold", scores={"scores": "cam/full"}, lists=["train"]),
    spec("crf", "crf.labels", seeds={"seeds": "threshold"}, lists=["train"]),
    spec("segment", "deeplab.v2", seeds={"seeds": "threshold"}, lists=["val"]),
    spec("network", "evaluate.masks", seeds={"seeds": "segment"}, lists=["val"]),
]
STEPS = [
    step("cam", "cam.resnet50", {"scales": [1.0, 0.5], "flip": True}, fit=7, backbone="resnet50", weights="ab" * 32),
    step("threshold", "labels.threshold", {"background": 0.2}, outputs=7),
    step("crf", "crf.labels", {"recipe": "irn_label"}, outputs=7),
    step(
        "segment",
        "deeplab.v2",
        {"scales": [1.0], "flip": False, "crf": None},
        fit=7,
        outputs=3,
        backbone="resnet101",
        weights="pretrained",
    ),
    step("network", "evaluate.masks", {}, outputs=3),
]


def told(labels="threshold", steps=STEPS, saliency=None):
    return circumstances(
        {
            "recipe": {"name": "r", "labels": labels, "predictions": "segment", "steps": SPECS},
            "data": {"lists": {"train": "train_small", "val": "val"}, "saliency_source": saliency},
            "steps": steps,
        }
    )


def test_split_scales_and_weights():
    found = told()
    assert found["split"] == "train_small (train, 7 photographs); val (3 photographs)"
    assert found["scales and flips"] == "cam at 1, 0.5, each mirrored too; segment at 1, not mirrored"
    assert found["weights"] == (
        "resnet50 from a file of sha256 abababababab...; resnet101 from timm's pretrained weights"
    )
    assert "saliency maps" not in found


def test_a_crf_on_the_way_is_told_from_one_beside_the_result():
    assert told()["CRF"] == "off; beside the result: crf (irn_label)"
    assert told(labels="crf")["CRF"] == "on in crf (irn_label)"
    smoothed = [*STEPS[:3], {**STEPS[3], "constants": {**STEPS[3]["constants"], "crf": "deeplab_v2_res101"}}]
    assert told(steps=smoothed)["CRF"] == "on in segment (deeplab_v2_res101); beside the result: crf (irn_label)"


def test_no_path_and_random_weights():
    random = [{**STEPS[0], "weights_sha256": None}]
    found = told(steps=random, saliency="folder /home/somebody/maps")
    assert found["weights"] == "resnet50 from random"
    assert found["saliency maps"] == "folder maps"
