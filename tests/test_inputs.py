"""The gate: what it lets in, as what, and what it refuses in one line."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from topgap_nb import inputs
from topgap_nb.errors import UserError
from topgap_nb.inputs import (
    ALONE,
    SETTINGS,
    as_class_idx,
    as_epsilons,
    as_hits,
    as_images,
    as_labels,
    as_logits,
    as_masks,
    as_network,
    as_number,
    as_positions,
    as_size,
    as_values,
    gated,
    in_format_of,
)


def refused(words, function, *args, **options):
    with pytest.raises(UserError, match=words) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)


# Images


def test_images_in_order_pass_unchanged_and_without_a_copy():
    images = torch.rand(2, 3, 4, 5)
    assert as_images(images).data_ptr() == images.data_ptr()
    assert as_images(images.double()).dtype == torch.float64
    # What blurring leaves of a white pixel is no error, and stays as it is.
    assert as_images(torch.full((1, 3, 2, 2), 1 + 1e-6)).max() > 1


@pytest.mark.parametrize(
    ("given", "first"),
    [
        (torch.full((1, 3, 2, 2), 51, dtype=torch.uint8), 0.2),
        (np.full((1, 3, 2, 2), 255, np.uint8), 1.0),
        (torch.full((1, 1, 2, 2), 0.25), 0.25),
        (torch.full((1, 3, 2, 2), 0.25, dtype=torch.float16), 0.25),
        (torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16), 0.5),
        (np.full((1, 3, 2, 2), 0.75, np.float32)[..., ::-1], 0.75),
        ([[[[0.5]]]], 0.5),
        (torch.full((1, 3, 2, 2), 0.5, requires_grad=True), 0.5),
    ],
)
def test_images_of_unmistakable_meaning_become_floats(given, first):
    images = as_images(given)
    assert images.dtype in (torch.float32, torch.float64)
    assert images.shape[1] == 3
    assert not images.requires_grad
    torch.testing.assert_close(images.float(), torch.full(images.shape, first))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.rand(3, 4, 4), r"\(3, 4, 4\).*`images\[None\]`"),
        (torch.rand(2, 4, 4, 3), r"shape \(2, 4, 4, 3\)"),
        (torch.rand(0, 3, 4, 4), "shape"),
        (torch.rand(1, 3, 4, 0), "shape"),
        (torch.full((1, 3, 2, 2), 128.0), r"span \[128, 128\].*divide by 255"),
        (torch.full((1, 3, 2, 2), -0.5), "normalise inside the network"),
        (torch.full((1, 3, 2, 2), 1.5), "normalise inside the network"),
        (torch.full((1, 3, 2, 2), torch.nan), "not finite"),
        (torch.full((1, 3, 2, 2), torch.inf), "not finite"),
        (torch.full((1, 3, 2, 2), -torch.inf), "not finite"),
        (torch.ones(1, 3, 2, 2, dtype=torch.int64), "int64"),
        (torch.ones(1, 3, 2, 2, dtype=torch.bool), "bool"),
        (torch.ones(1, 3, 2, 2, dtype=torch.complex64), "complex64"),
        (torch.ones(1, 3, 2, 2).to(torch.float8_e4m3fn), "float8"),
        (torch.ones(1, 3, 2, 2, device="meta"), "meta device"),
        (torch.ones(1, 3, 2, 2).to_sparse(), "dense"),
        ("a picture", "a str where a tensor"),
        (None, "a NoneType where a tensor"),
        ([[1.0], [1.0, 2.0]], "a list where a tensor"),
        (np.array([["x"]]), "a ndarray where a tensor"),
    ],
)
def test_images_of_unclear_meaning_are_refused(given, words):
    refused(words, as_images, given)


def test_one_bad_pixel_of_many_is_found():
    images = torch.rand(3, 3, 8, 8)
    for value in (torch.nan, -torch.inf, 1.01, -0.01):
        spoilt = images.clone()
        spoilt[2, 1, 7, 3] = value
        refused("images", as_images, spoilt)


# Labels and class indices


@pytest.mark.parametrize(
    "labels", [[2, 0], (2, 0), np.array([2, 0], np.int32), torch.tensor([2, 0], dtype=torch.uint8)]
)
def test_labels_of_any_whole_type_become_int64(labels):
    assert as_labels(labels, 2, 3).equal(torch.tensor([2, 0]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([[2], [0]]), r"shape \(2, 1\): give \(2,\)"),
        (torch.tensor([2]), r"shape \(1,\)"),
        (torch.tensor(2), r"shape \(\)"),
        (torch.tensor([2.0, 0.0]), "float32 where whole numbers"),
        (torch.tensor([True, False]), "bool where whole numbers"),
        (torch.tensor([3, 0]), "labels of 3: classes count from 0 to 2"),
        (torch.tensor([-1, 0]), "labels of -1"),
    ],
)
def test_other_labels_are_refused(labels, words):
    refused(words, as_labels, labels, 2, 3)


def test_labels_alone_need_one_at_least():
    assert as_labels([1, 1, 0]).tolist() == [1, 1, 0]
    refused("shape", as_labels, torch.empty(0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("class_idx", "expected"),
    [
        (1, [1, 1, 1]),
        (np.int64(2), [2, 2, 2]),
        (torch.tensor(1, dtype=torch.uint8), [1, 1, 1]),
        (torch.tensor([0, 2, 1], dtype=torch.uint8), [0, 2, 1]),
        ([0, 2, 1], [0, 2, 1]),
    ],
)
def test_a_class_is_meant_for_all_images_or_for_each(class_idx, expected):
    assert as_class_idx(class_idx, 3, 3).tolist() == expected


@pytest.mark.parametrize(
    "class_idx",
    [-1, 3, 99, 1.0, True, torch.tensor([True, False, True]), [0, 1], "cat", [[0, 1, 2]]],
)
def test_other_class_indices_are_refused(class_idx):
    refused("class_idx", as_class_idx, class_idx, 3, 3)


# Masks and maps

HALF = torch.tensor([[[True, False], [True, False]]])


@pytest.mark.parametrize(
    "masks",
    [
        HALF,
        HALF[:, None],
        HALF.to(torch.uint8) * 255,
        HALF.float(),
        HALF.numpy(),
        (HALF.int() * 255).numpy(),
        HALF.tolist(),
    ],
)
def test_masks_of_two_values_become_bool(masks):
    assert as_masks(masks, (1, 2, 2)).equal(HALF)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (HALF.float() * 0.5, "hold 0, 0.5: give bool"),
        (torch.tensor([[[0, 1], [2, 255]]]), "hold 0, 1, 2, 255"),
        (HALF.float() * torch.nan, "hold nan"),
        (torch.arange(16).view(1, 4, 4), "hold 0, 1, 2, 3, ..."),
        (HALF[0], r"shape \(2, 2\)"),
        (HALF.to(torch.complex64), "complex64"),
    ],
)
def test_other_masks_are_refused(masks, words):
    refused(words, as_masks, masks)


def test_masks_of_other_images_are_refused():
    refused(r"shape \(1, 2, 2\): give \(1, 4, 4\)", as_masks, HALF, (1, 4, 4))


def test_maps_must_be_scaled_and_fields_positive():
    assert as_values(HALF, "cams").equal(HALF.float())
    assert as_values(HALF.half() * 0.5, "cams").equal(HALF * 0.5)
    assert as_values(HALF[None] * 7.0, "fields").equal(HALF[None] * 7.0)
    refused(r"span \[0, 255\]", as_values, HALF * 255.0, "cams")
    refused("uint8", as_values, HALF.to(torch.uint8) * 255, "cams")
    refused("not finite", as_values, HALF * torch.nan, "cams")
    refused(r"shape \(2, 2\)", as_values, HALF[0], "cams")
    signed = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3, 1, 1)
    assert as_values(signed, "gradients").equal(signed)
    refused(r"give \(P, N, 3, H, W\)", as_values, signed[0], "gradients")
    refused(r"give \(P, N, 3, H, W\)", as_values, signed[:, :, :1], "gradients")
    refused("not finite", as_values, signed * torch.inf, "gradients")
    refused("negative", as_values, -1.0 * HALF[None], "fields")
    refused("shape", as_values, HALF, "fields")
    refused("not finite", as_values, torch.full((1, 1, 2, 2), torch.inf), "fields")


def test_unscaled_maps_have_any_sign_and_settings_that_are_lists_are_lists():
    assert as_values(-7.0 * HALF, "maps").equal(-7.0 * HALF)
    refused(r"give \(N, h, w\)", as_values, HALF[0], "maps")
    refused("not finite", as_values, HALF * torch.inf, "maps")
    assert as_size(torch.tensor([3, 4])) == (3, 4)
    for wrong in (3, (3,), (3.0, 4), None, "ab"):
        refused("size = ", as_size, wrong)
    assert as_epsilons((0, np.float64(0.5))) == [0.0, 0.5]
    for wrong in (0.5, [], [8], None, "ab", [torch.nan]):
        refused("epsilon", as_epsilons, wrong)


def test_logits_are_one_row_per_image_of_two_classes_at_least():
    logits = torch.tensor([[1.0, -torch.inf], [0.0, 2.0]])
    assert as_logits(logits, 2).equal(logits)
    refused(r"\(2, 1\)", as_logits, logits[:, :1])
    refused(r"\(2,\)", as_logits, logits[0])
    refused(r"gives \(3, C\)", as_logits, logits, 3)
    refused("NaN", as_logits, logits * torch.nan)
    refused("a dict where", as_logits, {"out": logits})


def test_hits_are_bool_and_of_the_same_images():
    one, other = torch.tensor([True, False]), np.array([True, True])
    assert as_hits(one, other).tolist() == [[True, False], [True, True]]
    refused("nothing where bool", as_hits)
    refused("int64", as_hits, one.long())
    refused("same images", as_hits, one, one[:1])


def test_positions_are_pairs_of_whole_numbers():
    assert as_positions(torch.tensor([[0, 1], [2, 3]])) == [(0, 1), (2, 3)]
    for wrong in ([], [(0, 1, 2)], [(0.5, 1)], (0, 1), None, "ab", [[0]]):
        refused("positions = ", as_positions, wrong)


# Numbers and networks


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epsilon", np.float32(0.5), 0.5),
        ("epsilon", 0, 0.0),
        ("epsilon", torch.tensor(0.25), 0.25),
        ("steps", np.int64(3), 3),
        ("steps", torch.tensor(3), 3),
        ("step_size", 1e-9, 1e-9),
        ("threshold", 1, 1.0),
    ],
)
def test_numbers_in_range_become_pythons(name, value, expected):
    number = as_number(value, name)
    assert (number, type(number)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epsilon", math.nan, "epsilon = nan is not a budget"),
        ("epsilon", 8, "8 of 255 grey levels is 8/255"),
        ("epsilon", -0.1, "not a budget"),
        ("epsilon", "0.1", "not a budget"),
        ("epsilon", 1j, "not a budget"),
        ("step_size", 0, "not a number in"),
        ("step_size", math.nan, "not a number in"),
        ("step_size", 2, "2 of 255 grey levels is 2/255"),
        ("steps", 0, "steps = 0 is not a whole number from 1"),
        ("steps", -1, "whole number from 1"),
        ("steps", 2.0, "whole number from 1"),
        ("restarts", 0, "whole number from 1"),
        ("longest", True, "whole number from 1"),
        ("batch_size", None, "whole number from 1"),
        ("queries", torch.tensor([1, 2]), "whole number from 1"),
        ("severity", 6, "whole number from 1 to 5"),
        ("seed", -1, "whole number from 0"),
        ("threshold", 1.5, r"number in \[0, 1\]"),
    ],
)
def test_other_numbers_are_refused(name, value, words):
    refused(words, as_number, value, name)


def test_networks_come_out_of_their_wrappers():
    net = nn.Linear(2, 2)
    assert as_network(nn.DataParallel(net)) is net
    assert as_network(torch.compile(net, backend="eager")) is net
    refused("surrogate is a dict", as_network, {}, "surrogate")
    refused("meta device", as_network, nn.Linear(2, 2, device="meta"))
    with torch.inference_mode():
        made_inside = nn.Linear(2, 2)
    refused("inference mode", as_network, made_inside)


def test_images_take_the_number_format_of_the_network():
    images = torch.rand(1, 3, 2, 2)
    assert in_format_of(nn.Conv2d(3, 2, 1).half(), images).dtype == torch.float16
    assert in_format_of(nn.Conv2d(3, 2, 1).double(), images).dtype == torch.float64
    assert in_format_of(nn.Flatten(), images) is images


# The gate itself


@gated
def tensors(images: torch.Tensor, masks=None, labels=None, **options):
    return {"images": images, "masks": masks, "labels": labels, "options": options}


def test_a_gated_function_gets_what_its_arguments_mean():
    pixels = np.full((2, 1, 2, 2), 255, np.uint8)
    found = tensors(pixels, masks=HALF.int() * 255, labels=[1, 0], epsilon=0)
    assert found["images"].equal(torch.ones(2, 3, 2, 2))
    # One mask for all images.
    assert found["masks"].equal(HALF.expand(2, 2, 2))
    assert found["labels"].equal(torch.tensor([1, 0]))
    assert found["options"] == {"epsilon": 0.0}


def test_gradients_can_be_taken_inside_no_grad_and_inference_mode():
    @gated
    def slope(images: torch.Tensor):
        images = images.clone().requires_grad_()
        return torch.autograd.grad((images**2).sum(), images)[0]

    for off in (torch.no_grad, torch.inference_mode):
        with off():
            images = torch.full((1, 3, 1, 1), 0.5)
            assert slope(images).flatten().tolist() == [1.0, 1.0, 1.0]
            assert not torch.is_grad_enabled()


def test_what_is_inside_is_not_checked_again(monkeypatch):
    calls = []
    checked = inputs.as_images
    monkeypatch.setattr(inputs, "as_images", lambda images: calls.append(1) or checked(images))

    @gated
    def outer(images: torch.Tensor):
        return [tensors(part)["images"] for part in images.split(1)]

    assert len(outer(torch.rand(5, 3, 2, 2))) == 5
    assert len(calls) == 1
    with pytest.raises(UserError):
        outer(torch.rand(3, 2, 2))
    # A refusal does not leave the door open.
    refused("shape", outer, torch.rand(3, 2, 2))


def test_a_gated_function_keeps_its_name_and_signature():
    assert tensors.__name__ == "tensors"
    assert list(inspect.signature(tensors).parameters) == ["images", "masks", "labels", "options"]


# Anything at all

DTYPES = [
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.bool,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.float8_e5m2,
]  # fmt: skip


@st.composite
def anything(draw):
    """Tensors of any type, shape, range and layout, and things that are none."""
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    scale = draw(st.sampled_from([0.0, 0.3, 1.0, 2.0, 255.0, -1.0, math.nan, math.inf]))
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * scale
    tensor = (values.nan_to_num(0, 7, 0) if draw(st.booleans()) else values).to(
        draw(st.sampled_from(DTYPES))
    )
    form = draw(st.sampled_from(["tensor"] * 4 + ["meta", "sparse", "numpy", "list", "other"]))
    if form == "meta":
        return tensor.to("meta")
    if form == "sparse":
        return values.to_sparse() if shape else tensor
    if form == "numpy":
        return values.numpy()
    if form == "list":
        return values.tolist()
    if form == "other":
        return draw(
            st.sampled_from([None, "x", {}, object(), 3, 2.5, True, 1j, b"b", [[1], [1, 2]]])
        )
    return tensor


MEANINGS = {
    "images": (as_images, FLOATING := (torch.float32, torch.float64)),
    "labels": (as_labels, (torch.int64,)),
    "class_idx": (lambda value: as_class_idx(value, 2, 3), (torch.int64,)),
    "masks": (as_masks, (torch.bool,)),
    "cams": (ALONE["cams"], FLOATING),
    "fields": (ALONE["fields"], FLOATING),
    "gradients": (ALONE["gradients"], FLOATING),
    "logits": (as_logits, FLOATING),
    "hits": (as_hits, (torch.bool,)),
    "maps": (ALONE["maps"], FLOATING),
}


def outcome(convert, *given):
    """Return (what was let in, ""), or (None, the refusal)."""
    try:
        return convert(*given), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("name", MEANINGS)
@settings(max_examples=150, deadline=None)
@given(value=anything())
def test_anything_is_let_in_with_its_meaning_or_refused_in_a_line(name, value):
    convert, dtypes = MEANINGS[name]
    found, refusal = outcome(convert, value)
    assert "\n" not in refusal
    if refusal:
        return
    assert found.dtype in dtypes
    assert found.device.type == "cpu"
    if name in ("images", "cams"):
        assert found.min() >= -1e-4
        assert found.max() <= 1 + 1e-4
    if name == "masks":
        # Object is what is not zero.
        expected = (
            torch.as_tensor(np.asarray(value)) if not isinstance(value, torch.Tensor) else value
        )
        assert found.sum() == (expected != 0).sum()


@settings(max_examples=150, deadline=None)
@given(value=anything(), name=st.sampled_from(sorted(SETTINGS)))
def test_any_number_lies_in_its_range_or_is_refused(value, name):
    found, refusal = outcome(as_number, value, name)
    assert "\n" not in refusal
    if refusal:
        return
    assert SETTINGS[name].low <= found <= SETTINGS[name].high
    assert isinstance(found, int if SETTINGS[name].whole else float)


@settings(max_examples=100, deadline=None)
@given(value=anything())
def test_any_positions_are_pairs_or_refused(value):
    found, refusal = outcome(as_positions, value)
    assert "\n" not in refusal
    if refusal:
        return
    assert found
    assert all(isinstance(i, int) for pair in found for i in pair)
    assert {len(pair) for pair in found} == {2}
