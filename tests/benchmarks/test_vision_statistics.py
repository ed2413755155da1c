"""The ResNet20 on CIFAR-10: the archive is read, and the first norm is measured at the probe's updates."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.vision_statistics import IMAGE, ResNet20, measure, read_images
from normplugins.utils.errors import UserError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two batches of 20 images, as CIFAR-10's binary version has them: a class, then the pixels by color."""
    rows = np.random.default_rng(0).integers(0, 256, (2, 20, 1 + IMAGE), dtype=np.uint8)
    rows[..., 0] %= 10
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number, batch in enumerate(rows, 1):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{number}.bin")
            member.size = batch.nbytes
            tar.addfile(member, io.BytesIO(batch.tobytes()))
    return path


def test_the_first_norm_is_measured_at_the_probes_updates(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, classes = read_images(archive)
    assert images.shape == (40, 3, 32, 32)
    assert int(classes.max()) < 10
    monkeypatch.setattr("benchmarks.vision_statistics.BATCH", 8)
    points = measure(images, classes, updates=5)
    assert [point["update"] for point in points] == [1, 2, 3, 4]
    first = points[0]
    assert first["tokens"] == 8 * 32 * 32
    assert first["mean_distance"] == first["mean"]  # the running mean starts at 0
    assert all(point["variance_distance"] > 0 and point["grad_product"] > 0 for point in points)


def test_the_model_has_the_published_size() -> None:
    """0.27 million parameters, Table 6 of arXiv 1512.03385; 20 layers with weights."""
    model = ResNet20()
    weights = [p for p in model.parameters() if p.dim() > 1]
    assert len(weights) == 20
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.27e6, rel=0.02)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<html>")
    with pytest.raises(UserError, match="no archive of CIFAR-10"):
        read_images(path)
