import pytest
import torch
from helpers.oracles import Filter
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from topgap_nb.errors import UserError
from topgap_nb.metrics.deletion import FILLS, survives, top_pixels, winning_cells
from topgap_nb.metrics.localisation import moved_masks


class Brightest(nn.Module):
    """The class is the colour with the largest mean over a region; elsewhere it is blind."""

    def __init__(self, region):
        super().__init__()
        self.region = region

    def forward(self, images):
        return (images * self.region).mean((2, 3))


REGION = torch.zeros(16, 16)
REGION[4:8, 4:8] = 1


def scenes(count=9):
    """Objects in one colour on a background in the next, which is what remains on average."""
    images = torch.full((count, 3, 16, 16), 0.1)
    for index in range(count):
        images[index, (index + 1) % 3] = 0.5
        images[index, index % 3, 4:8, 4:8] = 0.6
    return images, REGION.bool().expand(count, 16, 16)


@pytest.mark.parametrize("fill", FILLS)
def test_a_network_that_sees_only_the_object_needs_it_and_nothing_else(fill):
    net, (images, masks) = Brightest(REGION), scenes()
    assert net(images).argmax(1).tolist() == [0, 1, 2] * 3
    assert survives(net, images, ~masks, fill).all()
    assert not survives(net, images, masks, fill).any()
    # What is said then is what is said of the fill alone.
    filled = torch.where(masks[:, None], FILLS[fill](images), images)
    assert net(filled).argmax(1).tolist() == [1, 2, 0] * 3
    assert net(FILLS[fill](images)).argmax(1).tolist() == [1, 2, 0] * 3


def test_the_same_shape_elsewhere_changes_nothing():
    net, (images, masks) = Brightest(REGION), scenes()
    moved = moved_masks(masks)
    assert survives(net, images, moved).all()
    assert not survives(net, images, ~moved).any()


def test_deleting_nothing_changes_nothing_and_deleting_everything_leaves_the_mean_colour():
    net, (images, masks) = Brightest(torch.ones(16, 16)), scenes()
    assert survives(net, images, torch.zeros_like(masks)).all()
    # The mean of the whole image is the same before and after.
    assert survives(net, images, torch.ones_like(masks)).all()


def test_the_fills_by_hand():
    images = torch.rand(2, 3, 16, 24)
    torch.testing.assert_close(FILLS["mean"](images)[1, 2], images[1, 2].mean().expand(16, 24))
    flat = torch.full((1, 3, 16, 24), 0.3)
    torch.testing.assert_close(FILLS["blur"](flat), flat)
    step = torch.zeros(1, 3, 16, 24)
    step[..., 12:] = 1
    row = FILLS["blur"](step)[0, 0, 8]
    # Between two columns at equal distances from the step lies a half.
    torch.testing.assert_close(row[11] + row[12], torch.tensor(1.0))
    # The step is 3 pixels wide: one standard deviation away, 0.84 (the window is cut at two).
    assert row[14:16].mean() == pytest.approx(0.85, abs=0.02)
    assert (row.diff() >= 0).all()


def test_an_unknown_fill_is_refused():
    images, masks = scenes()
    with pytest.raises(UserError, match="fill 'black' is unknown: use mean, blur"):
        survives(Brightest(REGION), images, masks, "black")


def test_top_pixels_by_hand():
    cams = torch.tensor([[[0.9, 0.1], [0.4, 0.5]]])
    chosen = {share: top_pixels(cams, share)[0].tolist() for share in (0.0, 0.25, 0.5, 1.0)}
    assert chosen[0.0] == [[False, False], [False, False]]
    assert chosen[0.25] == [[True, False], [False, False]]
    assert chosen[0.5] == [[True, False], [False, True]]
    assert chosen[1.0] == [[True, True], [True, True]]


@given(share=st.floats(0, 1), seed=st.integers(0, 50), levels=st.integers(1, 4))
def test_top_pixels_are_as_many_as_asked_for_and_none_left_out_is_higher(share, seed, levels):
    draw = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(seed))
    cams = (draw * levels).floor() / levels
    chosen = top_pixels(cams, share, seed)
    assert chosen.sum((1, 2)).tolist() == [round(share * 63)] * 3
    lowest = cams.masked_fill(~chosen, 2).amin((1, 2))
    highest = cams.masked_fill(chosen, -1).amax((1, 2))
    assert (lowest >= highest).all()


def test_of_an_empty_map_pixels_are_drawn_at_random():
    chosen = top_pixels(torch.zeros(400, 4, 4), 0.25)
    # 100 of 400 each, with a standard deviation of 8.7.
    assert (chosen.sum(0) - 100).abs().max() < 45
    assert chosen.equal(top_pixels(torch.zeros(400, 4, 4), 0.25))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UserError, match=r"not a number in \[0, 1\]"):
        top_pixels(torch.zeros(1, 2, 2), share)


class Coarse(Filter):
    """Class maps of one cell for every 4 x 4 pixels: the means of the three colours."""

    def __init__(self, k):
        super().__init__(torch.eye(3)[:, :, None, None], k=k)

    def class_maps(self, images):
        return nn.functional.avg_pool2d(super().class_maps(images), 4)


def test_winning_cells_are_the_pixels_under_the_k_largest_positions():
    images = torch.zeros(1, 3, 8, 12)
    images[0, 0] = torch.tensor([[6.0, 1, 2], [5, 4, 3]]).kron(torch.ones(4, 4)) / 10
    images[0, 1] = torch.tensor([[0.0, 0, 8], [0, 0, 0]]).kron(torch.ones(4, 4)) / 10
    for class_idx, k, cells in (
        (None, 2, [[1, 0, 0], [1, 0, 0]]),
        (0, 3, [[1, 0, 0], [1, 1, 0]]),
        (1, 1, [[0, 0, 1], [0, 0, 0]]),
        (0, 0.5, [[1, 0, 0], [1, 1, 0]]),
    ):
        expected = torch.tensor(cells).kron(torch.ones(4, 4, dtype=torch.long)).bool()
        assert winning_cells(Coarse(k), images, class_idx)[0].equal(expected)


def test_only_top_k_pooling_has_winners():
    with pytest.raises(UserError, match="does not pool k positions"):
        winning_cells(nn.Flatten(), torch.zeros(1, 3, 4, 4))
