import pytest
import torch
from fairseq.modules import SinusoidalPositionalEmbedding

from normplugins.models.embeddings import SinusoidalPositions, positions_from_the_end
from normplugins.utils.errors import UserError


@pytest.mark.parametrize("dim", [4, 16, 17])
def test_they_are_fairseqs(dim):
    tokens = torch.tensor([[5, 6, 7, 2], [1, 1, 5, 2], [5, 2, 1, 1]])
    expected = SinusoidalPositionalEmbedding(dim, 1, 16)(tokens)
    torch.testing.assert_close(SinusoidalPositions(dim, 1, 12)(tokens), expected)


def test_padding_on_either_side_changes_no_real_position():
    positions = SinusoidalPositions(8, 1, 12)
    alone, padded = positions(torch.tensor([[5, 6, 2]])), positions(torch.tensor([[1, 5, 6, 2, 1]]))
    assert torch.equal(alone, padded[:, 1:4])
    assert not padded[:, [0, 4]].any()


def test_a_sequence_of_just_the_greatest_length_is_taken():
    assert SinusoidalPositions(8, 1, 12)(torch.full((1, 12), 5)).shape == (1, 12, 8)


def test_a_longer_sequence_is_refused_by_name():
    with pytest.raises(UserError, match="13 tokens, but the model takes at most 12"):
        SinusoidalPositions(8, 1, 12)(torch.full((1, 13), 5))


def test_positions_from_the_end_count_down_to_the_last_token():
    table = positions_from_the_end(4, 6)
    assert torch.equal(table[-1], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    for row, distance in enumerate((3, 2, 1, 0)):
        angles = distance / 10_000 ** (torch.tensor([0, 2, 4]) / 6)
        torch.testing.assert_close(table[row], torch.cat([angles.sin(), angles.cos()]))


def test_positions_from_the_end_of_a_shorter_segment_are_its_last_ones():
    torch.testing.assert_close(positions_from_the_end(3, 8), positions_from_the_end(5, 8)[2:])
