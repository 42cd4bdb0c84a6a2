"""A peer that did other work would make a comparison worthless."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("size", [(400, 300), (231, 357)], ids=["landscape", "portrait"])
def test_the_bare_script_gives_the_answer_of_infer(script, graph, tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image, net = tmp_path / "image.png", graph(224)
    Image.fromarray(noise).resize(size).save(image)
    peer = script("peers/infer_by_hand.py", net, image)
    assert peer.returncode == 0, peer.stderr
    command = [sys.executable, ROOT / "infer.py", "--engine", net, image, "--json"]
    ours = subprocess.run(command, capture_output=True, text=True, check=True)
    (answer,) = json.loads(ours.stdout)["images"]
    expected = [(p["index"], f"{100 * p['probability']:.2f}") for p in answer["predictions"]]
    got = re.findall(r"([\d.]+) %  (\d+)", peer.stdout)
    assert [(int(index), percent) for percent, index in got] == expected
    assert len({percent for percent, _ in got}) == 5


def test_prints_a_ratio(script, graph):
    done = script("infer.py", "--engine", graph(224), "--repeats", 1, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert 0.2 < document["ratio"]["seconds"] < 5
    assert set(document["help_seconds"]) == {"export.py", "build_engine.py", "infer.py"}
