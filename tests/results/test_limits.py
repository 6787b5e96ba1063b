import pytest
import torch

from topgap_nb.data.image_set import ImageSet
from topgap_nb.results.limits import cannot_conclude, half_width, images_needed, shortcut_verdict
from topgap_nb.results.statistics import Estimate


def some(pixels, labels=None, masks=None, masked=None):
    labels = torch.zeros(len(pixels), dtype=torch.long) if labels is None else labels
    names = tuple("abc"[: int(labels.max()) + 1])
    ids = tuple(map(str, range(len(pixels))))
    return ImageSet("some", pixels, labels, names, ids, masks, masked)


def test_a_suspected_shortcut_needs_the_whole_interval_above_chance():
    assert shortcut_verdict(Estimate(0.7, 0.51, 0.9, 20), 0.5) == "suspected"
    assert shortcut_verdict(Estimate(0.7, 0.49, 0.9, 20), 0.5) == "not shown"


def test_widths_and_needed_images_follow_the_square_root():
    assert half_width(10) == pytest.approx(0.22655, abs=1e-4)  # Wilson, 8 of 10: [0.4902, 0.9433]
    assert images_needed(Estimate(0.0, -0.1, 0.1, 100)) == 400
    assert images_needed(Estimate(0.0, -0.025, 0.025, 100)) == 25


def test_limits_name_what_is_missing_and_nothing_else():
    labels = torch.tensor([0] * 12 + [1] * 3)
    pixels = torch.zeros(15, 3, 4, 4, dtype=torch.uint8)
    sentences = " ".join(cannot_conclude(some(pixels, labels), Estimate(0.1, -0.1, 0.3, 15)))
    for words in (
        "15 test images",
        "do not quote",
        "is open",
        "b (3)",
        "no masks",
        "verdict takes 3 trainings of each network, and here they are 1",
        "belong together",
    ):
        assert words in sentences
    assert "a (12)" not in sentences
    # 12 of 15 are of one class: 0.9 is half of the way from 0.8 to 1.
    for accuracy, weak in ((0.89, True), (0.91, False)):
        scores = [Estimate(0.5, 0.4, 0.6, 15), Estimate(accuracy, 0.7, 1.0, 15)]
        sentences = cannot_conclude(some(pixels, labels), Estimate(0.1, -0.1, 0.3, 15), scores)
        assert any("longer training" in line for line in sentences) == weak
    masks = torch.ones(15, 4, 4, dtype=torch.bool)
    clear = Estimate(0.1, 0.09, 0.11, 15)
    rest = cannot_conclude(some(pixels, labels, masks), clear, n_trainings=3, subjects_known=True)
    assert len(rest) == 3
