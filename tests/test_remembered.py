"""A measurement is made once, and never taken for another."""

import copy
from dataclasses import replace

import pytest
import torch

import topgap_nb.measures.attacks as attacks
from topgap_nb import (
    TopGapNet,
    UserError,
    attack,
    attack_distance,
    erf_distance,
    masking_report,
    open_dataset,
    predict,
    remembered,
)

SMALL = 1 / 255


@pytest.fixture(scope="module")
def few():
    return open_dataset("planted", "test", 32, images=4)


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = TopGapNet("test_resnet", num_classes=8, k=1)
    torch.nn.init.normal_(net.head.classifier.weight, std=0.05)
    return net


@pytest.fixture
def calls(monkeypatch, runs):
    """The budgets that PGD was really called with."""
    found, pgd = [], attacks.pgd

    def counted(model, images, labels, epsilon, *given, **options):
        found.append(epsilon)
        return pgd(model, images, labels, epsilon, *given, **options)

    monkeypatch.setattr(attacks, "pgd", counted)
    return found


def test_the_same_call_is_made_once(net, few, calls):
    given = few.images, few.labels, "pgd", SMALL, 3
    first = remembered(attack, net, *given)
    # Another object with the same weights, a default spelt out, and a bar: the same measurement.
    again = remembered(attack, copy.deepcopy(net), *given, seed=0, mask=None, progress=True)
    assert len(calls) == 1
    assert type(again) is type(first)
    expected = attack(net, *given)
    for read, made in zip(again, expected, strict=True):
        assert torch.equal(read, made)


def other_weight(net):
    with torch.no_grad():
        next(net.parameters()).view(-1)[0].mul_(1 + 1e-6)


def other_statistics(net):
    next(net.buffers()).view(-1)[0].add_(1e-6)


def other_pool(net):
    net.pool.k = 5


def other_kind_of_k(net):
    net.pool.k = 1.0


@pytest.mark.parametrize("change", [other_weight, other_statistics, other_pool, other_kind_of_k])
def test_another_network_is_measured(net, few, calls, change):
    given = few.images, few.labels, "fgsm", SMALL
    remembered(attack, net, *given)
    change(net)
    remembered(attack, net, *given)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 2 / 255}, {"steps": 4}, {"seed": 1}, {"loss": "margin"},
        {"images": torch.zeros(4, 3, 32, 32)}, {"labels": torch.zeros(4, dtype=torch.long)},
        {"mask": torch.ones(4, 32, 32, dtype=torch.bool)},
    ],
)  # fmt: skip
def test_another_argument_is_another_measurement(net, few, calls, change):
    given = {"images": few.images, "labels": few.labels, "name": "pgd", "epsilon": SMALL}
    given |= {"steps": 3}
    remembered(attack, net, **given)
    remembered(attack, net, **given | change)
    assert len(calls) == 2


def test_a_data_set_counts_with_its_pixels_labels_and_masks(net, few, calls):
    remembered(attack_distance, net, few, SMALL)
    remembered(attack_distance, net, replace(few, ids=("a", "b", "c", "d")), SMALL)
    assert len(calls) == 2
    remembered(attack_distance, net, replace(few, masks=few.masks.roll(1, 2)), SMALL)
    remembered(attack_distance, net, replace(few, labels=few.labels.flip(0)), SMALL)
    assert len(calls) == 6


def test_code_hardware_and_versions_are_part_of_the_name(net, few, calls, monkeypatch):
    import topgap_nb.experiments.remembered as module

    given = net, few.images, few.labels, "fgsm", SMALL
    remembered(attack, *given)
    for count, name in enumerate(("_code", "hardware", "versions"), start=2):
        monkeypatch.setattr(module, name, lambda: "another")
        remembered(attack, *given)
        assert len(calls) == count


def test_outcomes_of_every_kind_come_back_as_they_were(net, few, runs):
    report = remembered(masking_report, net, few.images, few.labels, SMALL, queries=5, longest=5)
    again = remembered(masking_report, net, few.images, few.labels, SMALL, queries=5, longest=5)
    assert again is not report
    assert (again.epsilon, again.rows) == (report.epsilon, report.rows)
    assert torch.equal(again.worst_case, report.worst_case)
    assert str(again) == str(report)
    fields = [remembered(erf_distance, net, few.images, "each") for _ in range(2)]
    assert type(fields[1]) is type(fields[0])
    for made, read in zip(*fields, strict=True):
        assert torch.equal(made, read)
    logits = [remembered(predict, net, few.images) for _ in range(2)]
    assert torch.equal(*logits)


def test_a_part_is_kept_without_the_rest(net, few, calls, runs):
    given = net, few.images, few.labels, "pgd", SMALL, 3
    robust = [remembered(attack, *given, part="robust") for _ in range(2)]
    assert torch.equal(*robust)
    assert len(calls) == 1
    (file,) = (runs / "measured").iterdir()
    assert file.stat().st_size < few.images.numel()


def test_a_damaged_file_is_measured_again_and_mended(net, few, calls, runs):
    given = net, few.images, few.labels, "fgsm", SMALL
    first = remembered(attack, *given)
    (file,) = (runs / "measured").iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:-1], whole.replace(b"Attacked", b"Something")):
        file.write_bytes(damage)
        with pytest.warns(UserWarning, match=r"is damaged .* measured again"):
            again = remembered(attack, *given)
        assert torch.equal(again.robust, first.robust)
        assert file.read_bytes() == whole
    assert len(calls) == 4


def test_what_cannot_be_told_from_its_like_is_refused(net, few, runs):
    with pytest.raises(UserError, match="model is a function"):
        remembered(predict, lambda images: images, few.images)
    with pytest.raises(UserError, match=r"other_weight is not of topgap_nb\.measures"):
        remembered(other_weight, net)
    assert not (runs / "measured").exists()
