from dataclasses import replace

import pytest
import torch
from helpers.oracles import Filter, Sees
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from topgap_nb.data.registry import open_dataset
from topgap_nb.errors import UserError
from topgap_nb.method.model import build_model
from topgap_nb.metrics.erf import (
    corner_and_centre,
    erf_distance,
    erf_map,
    erf_value,
    logit_gradient_share,
    object_share,
)

BOX = torch.full((1, 3, 3, 3), 1 / 9)


@pytest.fixture(scope="module")
def planted():
    return open_dataset("planted", image_size=32).test.subset(range(4))


def test_one_box_filter_reaches_its_neighbourhood_and_no_further():
    field = erf_map(Filter(BOX), torch.rand(1, 3, 7, 7), [(3, 3)])[0, 0]
    expected = torch.zeros(7, 7)
    expected[2:5, 2:5] = 3 / 9
    torch.testing.assert_close(field, expected)


def test_two_box_filters_reach_as_their_convolution():
    second = torch.full((1, 1, 3, 3), 1.0)
    field = erf_map(Filter(BOX, second), torch.rand(1, 3, 9, 9), [(4, 4)])[0, 0]
    line = torch.tensor([1.0, 2, 3, 2, 1])
    torch.testing.assert_close(field[2:7, 2:7], torch.outer(line, line) / 3)
    assert field.sum() == pytest.approx(27.0)


def test_output_channels_are_summed_before_the_absolute_value():
    opposite = torch.cat([BOX, -BOX])
    assert erf_map(Filter(opposite), torch.rand(2, 3, 5, 5), [(2, 2)]).abs().max() == 0


def test_colour_channels_are_summed_after_the_absolute_value():
    kernel = torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1)
    field = erf_map(Filter(kernel), torch.rand(1, 3, 3, 3), [(1, 1)])[0, 0]
    assert field[1, 1] == 6
    assert field.sum() == 6


@pytest.mark.parametrize("head", ["standard", "topgap"])
def test_every_position_equals_a_backward_pass_of_its_own(head):
    torch.manual_seed(0)
    model = build_model(head, "resnet18", num_classes=3).eval()
    torch.nn.init.normal_(
        next(p for n, p in model.named_parameters() if "classifier" in n or "fc" in n)
    )
    images = torch.rand(2, 3, 96, 96)
    maps = model.class_maps if head == "topgap" else lambda x: model.features(x)[-1]
    positions = [(0, 0), (1, 2), (2, 1)]
    for position, field in zip(positions, erf_map(model, images, positions), strict=True):
        for index in range(2):
            pixels = images[index : index + 1].clone().requires_grad_()
            maps(pixels)[0, :, position[0], position[1]].sum().backward()
            torch.testing.assert_close(
                field[index], pixels.grad[0].abs().sum(0), rtol=1e-3, atol=1e-6
            )


def test_corner_and_centre_follow_definition_6():
    assert corner_and_centre(56, 56) == ((0, 0), (27, 27))
    assert corner_and_centre(7, 7) == ((0, 0), (3, 3))
    with pytest.raises(UserError, match="2 x 2"):
        corner_and_centre(2, 2)


def test_distance_is_centre_minus_corner_under_every_reading():
    # Zero padding cuts the corner's field to 4 of 9 pixels, each with gradient 3/9.
    distance, centre, corner = erf_distance(Filter(BOX), torch.rand(2, 3, 9, 9), "none")
    assert centre.tolist() == pytest.approx([9 / 3 / 81] * 2)
    assert corner.tolist() == pytest.approx([4 / 3 / 81] * 2)
    torch.testing.assert_close(distance, centre - corner)


def test_readings_of_the_z_normalisation_by_hand():
    # One colour: a field of 4 in one pixel of four, and the same ten times smaller.
    gradients = torch.zeros(2, 1, 3, 1, 4)
    gradients[:, 0, 0, 0, 3] = torch.tensor([4.0, -0.4])
    fields = gradients.abs().sum(2)
    together = erf_value(gradients, "together")
    spread = fields.flatten()
    expected = (fields.mean((2, 3)) - spread.mean()) / spread.std(correction=0)
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(together[0], -together[1])
    torch.testing.assert_close(erf_value(gradients, "none"), torch.tensor([[1.0], [0.1]]))
    torch.testing.assert_close(erf_value(gradients, "each"), torch.full((2, 1), 0.75**0.5))
    # One value of n = 12: mean 1/n, standard deviation sqrt(n - 1)/n, mean deviation 2(n - 1)/n^2.
    torch.testing.assert_close(erf_value(gradients), torch.full((2, 1), 2 * 11**0.5 / 12))


def test_signed_gradients_of_one_size_have_the_largest_value_there_is():
    alternating = torch.tensor([1.0, -1.0]).repeat(6).view(1, 1, 3, 2, 2)
    gradients = torch.cat([3 * alternating, alternating])
    assert erf_value(gradients).flatten().tolist() == pytest.approx([1, 1])
    # Mean 0, and the mean square of both positions is (9 + 1) / 2.
    expected = [3 / 5**0.5, 1 / 5**0.5]
    together = erf_value(gradients, "signed_together")
    assert together.flatten().tolist() == pytest.approx(expected)
    # |.| before z leaves one value only, which has no spread.
    assert erf_value(gradients, "each").abs().max() < 1e-3


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_the_signed_reading_hides_the_size_of_a_gradient_and_its_sign(scale, seed):
    gradients = torch.randn(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    expected = erf_value(gradients)
    torch.testing.assert_close(erf_value(-scale * gradients), expected, rtol=1e-4, atol=0)
    assert (expected < 1).all()


def test_an_unknown_reading_and_fields_without_sign_are_refused():
    gradients = torch.zeros(1, 1, 3, 2, 2)
    with pytest.raises(UserError, match="'both' is unknown: use signed, signed_together, each"):
        erf_value(gradients, "both")
    with pytest.raises(UserError, match=r"\(1, 1, 2, 2\): give \(P, N, 3, H, W\)"):
        erf_value(gradients.sum(2))


@pytest.mark.parametrize(
    ("size", "corner", "expected"),
    [
        (3, 1 / 6, ((0, 0), (1, 1))),
        # The middles of 3 and 4 lie 3.5 and 4.5 positions from the border, 1/6 is 4 positions.
        (24, 1 / 6, ((3, 3), (11, 11))),
        (12, 1 / 6, ((1, 1), (5, 5))),
        (24, 0.0, ((0, 0), (11, 11))),
    ],
)
def test_a_corner_at_one_place_of_the_image_on_maps_of_every_size(size, corner, expected):
    assert corner_and_centre(size, size, corner) == expected


@given(height=st.integers(3, 70), width=st.integers(3, 70), corner=st.floats(0, 0.3))
def test_no_position_lies_nearer_to_the_place_that_was_asked_for(height, width, corner):
    first, centre = corner_and_centre(height, width, corner)
    for size, *found in zip((height, width), first, centre, strict=True):
        for index, share in zip(found, (corner, 0.5), strict=True):
            assert abs((index + 0.5) / size - share) <= 0.5 / size + 1e-8


@pytest.mark.parametrize("corner", [-0.1, 0.5, float("nan")])
def test_a_corner_that_is_none_is_refused(corner):
    with pytest.raises(UserError, match=r"not a share of the image in \[0, 0.5\)"):
        corner_and_centre(8, 8, corner)


def test_a_corner_that_falls_onto_the_centre_is_refused():
    with pytest.raises(UserError, match=r"0\.49 is the centre of a map of 24 x 24"):
        corner_and_centre(24, 24, 0.49)


def test_distance_at_another_corner_by_hand():
    # On 9 x 9 the position nearest to 1/6 is 1, whose field of 9 pixels is whole.
    distance, _, corner = erf_distance(Filter(BOX), torch.rand(1, 3, 9, 9), "none", 1 / 6)
    assert corner.tolist() == pytest.approx([9 / 3 / 81])
    assert distance.abs().max() < 1e-6


def test_of_equal_gradients_everywhere_the_object_has_its_share_of_the_pixels(planted):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
    nn.init.ones_(net[1].weight)
    share, area = logit_gradient_share(net, planted)
    torch.testing.assert_close(area, planted.masks.float().mean((1, 2)))
    torch.testing.assert_close(share, area)


def test_the_true_logits_gradient_is_weighed_by_hand(planted):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
    share, _ = logit_gradient_share(net, planted)
    weights = net[1].weight.detach().view(8, 3, 32, 32).abs().sum(1)[planted.labels]
    expected = (weights * planted.masks).sum((1, 2)) / weights.sum((1, 2))
    torch.testing.assert_close(share, expected)


@pytest.mark.parametrize("seen", [0, 1])
def test_a_network_that_sees_one_side_has_all_of_its_gradient_there(planted, seen):
    region = planted.masks if seen else ~planted.masks
    # The logit of class 1 depends on what is seen, that of class 0 on nothing.
    planted = replace(planted, labels=torch.tensor([1, 1, 1, 0]))
    share, _ = logit_gradient_share(Sees(planted.images, region), planted)
    assert share[:3].tolist() == [seen] * 3
    assert share[3].isnan()


def test_a_share_on_the_object_needs_masks(planted):
    with pytest.raises(UserError, match="not every image of 'planted' has a mask"):
        logit_gradient_share(nn.Flatten(), replace(planted, masks=None))


def test_a_network_that_sees_only_the_object_has_its_field_there():
    images, masks = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, 2:5, 3:6] = True
    inside = [(3, 4)]
    assert object_share(erf_map(Sees(images, masks), images, inside), masks).tolist() == [[1, 1]]
    assert object_share(erf_map(Sees(images, ~masks), images, [(0, 0)]), masks).tolist() == [[0, 0]]


def test_a_position_outside_the_map_is_refused():
    with pytest.raises(UserError, match=r"\(5, 0\) lies outside the output map of 5 x 5"):
        erf_map(Filter(BOX), torch.rand(1, 3, 5, 5), [(5, 0)])
