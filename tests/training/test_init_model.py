import torch

from topgap_nb import TrainingSpec, init_model
from topgap_nb.method.backbones import embedded_weights


def test_the_first_network_of_a_process_starts_as_every_later_one():
    embedded_weights.cache_clear()
    spec = TrainingSpec(k=4, seed=3)
    first, second = (init_model(spec, 2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_building_a_network_leaves_the_global_random_numbers_alone():
    embedded_weights.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    init_model(TrainingSpec(k=4), 2)
    assert torch.equal(torch.rand(3), expected)
