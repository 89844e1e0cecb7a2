"""The two branches: shapes, independence of samples, and what each can see."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from face2bone_model.models.branches import CnnBranch, TransformerBranch


@pytest.fixture(params=["transformer", "cnn"])
def branch(request):
    torch.manual_seed(0)
    if request.param == "cnn":
        return CnnBranch(32, size=(8, 8), width=16)
    return TransformerBranch(32, tokens=64, width=16, layers=2, heads=2)


def test_a_branch_turns_a_map_into_one_vector(branch):
    assert branch(torch.randn(5, 64, 32)).shape == (5, 16)


def test_a_branch_computes_each_sample_alone(branch):
    tokens = torch.randn(4, 64, 32)
    alone = torch.cat([branch(tokens[index : index + 1]) for index in range(4)])
    torch.testing.assert_close(branch(tokens), alone, atol=1e-6, rtol=0)


def test_a_branch_is_the_same_in_training_and_evaluation(branch):
    tokens = torch.randn(4, 64, 32)
    assert torch.equal(branch.train()(tokens), branch.eval()(tokens))
    assert not any(isinstance(module, _BatchNorm) for module in branch.modules())


def test_a_branch_sees_where_things_are(branch):
    tokens = torch.randn(1, 64, 32)
    moved = tokens[:, torch.randperm(64)]
    assert (branch(tokens) - branch(moved)).abs().max() > 1e-4


def test_one_block_of_the_cnn_sees_the_neighbouring_tokens_and_no_others():
    block = CnnBranch(32, size=(8, 8), width=16).blocks[0]
    tokens = torch.randn(1, 64, 16)
    changed = tokens.clone()
    changed[0, 3 * 8 + 4] += 1.0  # row 3, column 4
    reached = (block(tokens) - block(changed)).abs().amax(-1)[0].reshape(8, 8) > 0
    assert set(map(tuple, reached.nonzero().tolist())) == {
        (row, column) for row in (2, 3, 4) for column in (3, 4, 5)
    }
