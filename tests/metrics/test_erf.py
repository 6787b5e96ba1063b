import pytest
import torch
from helpers.oracles import Filter, Sees

from topgap_nb.errors import UserError
from topgap_nb.method.model import build_model
from topgap_nb.metrics.erf import (
    corner_and_centre,
    erf_distance,
    erf_map,
    erf_value,
    object_share,
)

BOX = torch.full((1, 3, 3, 3), 1 / 9)


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
    fields = torch.tensor([[[[0.0, 0.0, 0.0, 4.0]]], [[[0.0, 0.0, 0.0, 0.4]]]])
    together = erf_value(fields, "together")
    spread = fields.flatten()
    expected = (fields.mean((2, 3)) - spread.mean()) / spread.std(correction=0)
    torch.testing.assert_close(together, expected)
    each = erf_value(fields, "each")
    torch.testing.assert_close(each, torch.full((2, 1), 0.75**0.5))


def test_a_network_that_sees_only_the_object_has_its_field_there():
    images, masks = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, 2:5, 3:6] = True
    inside = [(3, 4)]
    assert object_share(erf_map(Sees(images, masks), images, inside), masks).tolist() == [[1, 1]]
    assert object_share(erf_map(Sees(images, ~masks), images, [(0, 0)]), masks).tolist() == [[0, 0]]


def test_a_position_outside_the_map_is_refused():
    with pytest.raises(UserError, match=r"\(5, 0\) lies outside the output map of 5 x 5"):
        erf_map(Filter(BOX), torch.rand(1, 3, 5, 5), [(5, 0)])
