"""Weights of torchvision in the workflow: fetched once, verified, and given to the training."""

from __future__ import annotations

import hashlib

import pytest
from project import Project

pytestmark = pytest.mark.workflow

EXPERIMENT = """
dataset:
  name: tiny
  layout: {kind: synthetic, texture: membranes, shape: [3, 64, 72]}
split: {unit: block, folds: 3, run: [0]}
patches: {tile: 32, per_image: 1}
model: {network: ternausnet, pretrained: imagenet}
train: {steps: 1, threads: 1}
predict: {threads: 1}
"""
CONFIG = ("--config", "experiments=[pretrained]", "archives=[]", "registry=copies.yaml")


def test_weights_are_fetched_and_verified_before_a_training_takes_them(fresh: Project) -> None:
    """No file but torchvision's own has the digest in its name: another is refused, in one line."""
    (fresh.path / "config/experiments/pretrained.yaml").write_text(EXPERIMENT)
    name, content = "vgg11-8a719046.pth", b"other weights"
    (fresh.path / "mine.pth").write_bytes(content)
    mirror = fresh.path / "copies.yaml"
    mirror.write_text(f"{name}: {{url: mine.pth, sha256: {'a' * 64}}}\n")
    done = fresh.snakemake("results/pretrained/vgg11-8a719046", *CONFIG, check=False)
    assert done.returncode
    assert f"{name} has SHA-256" in done.stdout
    digest = hashlib.sha256(content).hexdigest()
    mirror.write_text(f"{name}: {{url: mine.pth, sha256: {digest}}}\n")
    assert "fetch_weights" in fresh.would_run(*CONFIG)
    model = "results/experiments/pretrained/fold0/seed0/model.json"
    done = fresh.snakemake(model, *CONFIG, check=False)
    assert done.returncode
    file = f"results/pretrained/vgg11-8a719046/{name}"
    assert (fresh.path / file).read_bytes() == content
    log = (fresh.path / "results/logs/train/pretrained/fold0/seed0.log").read_text()
    assert f"{file}: model.pretrained must have the SHA-256 that its name tells" in log
    assert "fetch_weights" not in fresh.would_run(*CONFIG)
