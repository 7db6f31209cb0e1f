"""PackedSpikes: packing and unpacking, indexing, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from comparison import LAYOUTS, lay_out, spike_train
from hypothesis import given
from hypothesis import strategies as st

from spikefuse import PackedSpikes, ops, reference
from spikefuse.packed import pack_counting, words_for

SIZES = [(5, 3, 1), (2, 3, 31), (2, 3, 32), (2, 3, 33), (1, 1, 64), (3, 2, 300), (0, 2, 3), (3, 0, 4), (3, 2, 0)]


def packed(*shape: int, density: float = 0.3, seed: int = 0) -> PackedSpikes:
    return PackedSpikes.pack(spike_train(*shape, density=density, seed=seed))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ops.SPIKE_DTYPES, ids=str)
def test_packing_equals_the_reference(device: str, dtype: torch.dtype, layout: str, size: tuple[int, int, int]) -> None:
    dense = lay_out(spike_train(*size, dtype=dtype).to(device), layout)
    spikes = PackedSpikes.pack(dense)
    assert spikes.words.dtype == torch.int32
    assert torch.equal(spikes.words.cpu(), reference.pack(dense.cpu()))
    assert spikes.shape == dense.shape
    back = spikes.unpack(dtype)
    assert back.dtype == dtype
    assert torch.equal(back, dense)
    assert torch.equal(reference.unpack(spikes.words, size[2]), dense.float())


@pytest.mark.parametrize("dtype", ops.SPIKE_DTYPES, ids=str)
def test_unpacking_strided_words(device: str, dtype: torch.dtype) -> None:
    dense = spike_train(4, 3, 70).to(device)
    words = PackedSpikes.pack(dense).words
    for layout in ("batch_first", "offset", "padded", "every_second_neuron"):
        assert torch.equal(PackedSpikes(lay_out(words, layout), 70).unpack(dtype), dense.to(dtype))


def test_more_rows_than_a_grid_dimension_holds(device: str) -> None:
    dense = spike_train(70_003, 5).to(device)
    spikes = PackedSpikes.pack(dense)
    assert torch.equal(spikes.words.cpu(), reference.pack(dense.cpu()))
    assert torch.equal(spikes.unpack(), dense)


@given(rows=st.integers(0, 5), neurons=st.integers(0, 200), seed=st.integers(0, 2**31))
def test_packing_loses_nothing(rows: int, neurons: int, seed: int) -> None:
    dense = spike_train(rows, neurons, density=seed % 11 / 10, seed=seed)
    spikes, count, not_spikes = pack_counting(dense)
    assert torch.equal(spikes.unpack(), dense)
    assert (count, not_spikes) == (int(dense.sum()), 0)
    assert spikes.words.numel() == rows * words_for(neurons)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf"), 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("position", [0, 31, 32, 76])
def test_what_is_neither_0_nor_1_is_counted(device: str, dtype: torch.dtype, value: float, position: int) -> None:
    dense = spike_train(3, 77, dtype=dtype).to(device)
    dense[1, position] = 0
    before = int(dense.sum())
    dense[1, position] = value
    assert pack_counting(dense)[1:] == (before + 1, 1)
    assert pack_counting(lay_out(dense, "every_second_neuron"))[1:] == (before + 1, 1)
    with pytest.raises(ValueError, match="expected spikes of zeros and ones, got 1 other elements"):
        PackedSpikes.pack(dense)


def test_negative_zero_is_no_spike(device: str) -> None:
    assert pack_counting(torch.full((2, 40), -0.0, device=device))[1:] == (0, 0)


def test_packing_takes_no_gradient() -> None:
    assert not PackedSpikes.pack(torch.ones(2, 3, requires_grad=True)).unpack().requires_grad


def test_indexing_leading_dimensions() -> None:
    dense = spike_train(4, 5, 40)
    spikes = PackedSpikes.pack(dense)
    for index in (
        0,
        -1,
        slice(1, 3),
        slice(None, None, 2),
        (slice(None), 2),
        (1, 2),
        (..., 3),
        None,
        [2, 0],
        torch.tensor([3, 1]),
        torch.tensor([True, False, True, True]),
        (slice(None), torch.tensor([4, 0])),
    ):
        wanted = dense[(*index, slice(None))] if isinstance(index, tuple) and ... in index else dense[index]
        assert torch.equal(spikes[index].unpack(), wanted), index
        assert spikes[index].shape == wanted.shape
    with pytest.raises(IndexError, match="expected at most 2 indices, got 3: neurons are not indexed"):
        spikes[0, 0, 0]
    with pytest.raises(IndexError):
        spikes[4]


@pytest.mark.parametrize("shape", [(4, 2, 40), (7, 33), (40,)], ids=str)
def test_length_is_the_size_of_the_first_dimension(shape: tuple[int, ...]) -> None:
    spikes = packed(*shape)
    assert len(spikes) == spikes.shape[0] == shape[0]


def test_counts_and_density(device: str) -> None:
    dense = spike_train(6, 3, 40).to(device)
    spikes = PackedSpikes.pack(dense)
    assert spikes.counts().dtype == torch.int32
    assert torch.equal(spikes.counts(), dense.sum(0).int())
    assert torch.equal(spikes.counts(dim=1), dense.sum(1).int())
    assert spikes.density() == float(dense.double().mean())
    assert packed(3, 0, 40).density() == 0
    for dim in (2, -1):
        with pytest.raises(ValueError, match="expected a leading dimension, got the neurons'"):
            spikes.counts(dim=dim)


def test_transpose_swaps_leading_dimensions_as_a_view() -> None:
    dense = spike_train(4, 5, 40)
    spikes = PackedSpikes.pack(dense)
    swapped = spikes.transpose(0, 1)
    assert torch.equal(swapped.unpack(), dense.transpose(0, 1))
    assert swapped.words.data_ptr() == spikes.words.data_ptr()
    for dims in ((0, 2), (-1, 1)):
        with pytest.raises(ValueError, match="the neurons' dimension cannot be moved"):
            spikes.transpose(*dims)


def test_equality() -> None:
    spikes = packed(3, 2, 40)
    assert spikes == packed(3, 2, 40)
    assert spikes != packed(3, 2, 40, seed=1)
    assert spikes != packed(3, 2, 41)
    assert PackedSpikes.pack(torch.zeros(2, 33)) != PackedSpikes.pack(torch.zeros(2, 34))  # equal words
    assert spikes != spikes.unpack().tolist()
    with pytest.raises(TypeError, match="unhashable"):
        hash(spikes)


def test_spikes_on_two_devices_are_not_equal() -> None:
    spikes = packed(3, 2, 40)
    assert (spikes == spikes.to("meta")) is False


def test_copies_pickles_and_saved_files() -> None:
    spikes = packed(3, 2, 40)
    file = io.BytesIO()
    torch.save({"spikes": spikes}, file)
    file.seek(0)
    for again in (
        copy.deepcopy(spikes),
        copy.copy(spikes),
        pickle.loads(pickle.dumps(spikes)),
        torch.load(file, weights_only=False)["spikes"],
    ):
        assert again == spikes
        assert again.num_neurons == 40
    assert copy.deepcopy(spikes).words.data_ptr() != spikes.words.data_ptr()


def test_a_forged_pickle_is_refused() -> None:
    spikes = packed(3, 2, 40)
    spikes.num_neurons = 39
    spikes.words[0, 0, 1] = -1
    with pytest.raises(ValueError, match="a padding bit beyond neuron 38 is set"):
        pickle.loads(pickle.dumps(spikes))


def test_repr_says_shape_and_device() -> None:
    assert repr(packed(3, 2, 40)) == "PackedSpikes(shape=(3, 2, 40), device=cpu)"


def test_on_the_meta_device() -> None:
    words = torch.empty(3, 2, 2, dtype=torch.int32, device="meta")
    assert PackedSpikes(words, 40).shape == (3, 2, 40)
    assert packed(3, 2, 40).to("meta").unpack().shape == (3, 2, 40)


@pytest.mark.parametrize(
    ("words", "neurons", "error", "message"),
    [
        ([1], 1, TypeError, "expected words as an int32 tensor, got list"),
        (torch.zeros(1), 1, TypeError, "expected words as an int32 tensor, got torch.float32"),
        (torch.zeros(1, dtype=torch.int64), 1, TypeError, "expected words as an int32 tensor, got torch.int64"),
        (torch.zeros(1, dtype=torch.int32), 1.0, TypeError, "expected num_neurons as an int, got float"),
        (torch.zeros(1, dtype=torch.int32), True, TypeError, "expected num_neurons as an int, got bool"),
        (torch.zeros(1, dtype=torch.int32), -1, ValueError, "expected num_neurons >= 0, got -1"),
        (torch.tensor(0, dtype=torch.int32), 1, ValueError, r"words of shape \[..., 1\] for 1 neurons, got \[\]"),
        (
            torch.zeros(4, 1, dtype=torch.int32),
            33,
            ValueError,
            r"words of shape \[..., 2\] for 33 neurons, got \[4, 1\]",
        ),
        (torch.zeros(4, 1, dtype=torch.int32), 0, ValueError, r"words of shape \[..., 0\] for 0 neurons, got \[4, 1\]"),
        (torch.full((1,), 2, dtype=torch.int32), 1, ValueError, "a padding bit beyond neuron 0 is set in words"),
        (torch.full((1,), -(2**31), dtype=torch.int32), 31, ValueError, "a padding bit beyond neuron 30 is set"),
    ],
)
def test_bad_words_are_named(words: object, neurons: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^PackedSpikes: .*" + message):
        PackedSpikes(words, neurons)  # type: ignore[arg-type]


def test_the_last_bit_of_a_word_is_no_padding() -> None:
    assert PackedSpikes(torch.full((1, 1), -1, dtype=torch.int32), 32).unpack().sum() == 32
    assert PackedSpikes(torch.full((1, 1), -(2**31), dtype=torch.int32), 32).unpack().sum() == 1


@pytest.mark.parametrize(
    ("spikes", "error", "message"),
    [
        ([1.0], TypeError, "expected a tensor, got list"),
        (torch.tensor(1.0), ValueError, r"expected spikes of shape \[..., N\], got a scalar"),
        (torch.ones(2, dtype=torch.complex64), TypeError, "expected spikes of dtype float32, .*got torch.complex64"),
        (torch.full((3,), 0.5), ValueError, "expected spikes of zeros and ones, got 3 other elements"),
    ],
)
def test_bad_spikes_are_named(spikes: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^PackedSpikes.pack: " + message):
        PackedSpikes.pack(spikes)  # type: ignore[arg-type]


def test_unpacking_to_a_type_without_zeros_and_ones_is_refused() -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError), match="dtype"):
        packed(2, 3).unpack(torch.complex64)
