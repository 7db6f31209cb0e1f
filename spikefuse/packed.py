"""Spikes held as one bit each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikefuse import ops

if TYPE_CHECKING:
    from types import EllipsisType

    Index = int | slice | EllipsisType | None | tuple[int | slice | EllipsisType | None, ...]

WORD_BITS = 32


def words_for(num_neurons: int) -> int:
    """Number of 32-bit words that hold the spikes of ``num_neurons`` neurons.

    >>> words_for(784), words_for(0)
    (25, 0)
    """
    return -(-num_neurons // WORD_BITS)


class PackedSpikes:
    """Spikes at one bit each: 32 times smaller than fp32, and the input that the event-driven products work on.

    Neuron ``n`` is bit ``n % 32`` of word ``n // 32``; the padding bits of the last word are 0. A packed tensor takes
    no gradient: it is data, or the output of a layer below which nothing is trained.

    Args:
        words: int32 tensor of shape ``[..., ceil(num_neurons / 32)]`` on any device, usually ``[T, B, W]``.
        num_neurons: number of neurons N, the size of the last logical dimension.

    Raises:
        TypeError: ``words`` is not an int32 tensor, or ``num_neurons`` not an int.
        ValueError: the number of words does not fit ``num_neurons``, or a padding bit is set.

    Example:
        >>> import torch
        >>> from spikefuse import PackedSpikes
        >>> spikes = PackedSpikes.pack(torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
        >>> spikes
        PackedSpikes(shape=(2, 3), device=cpu)
        >>> spikes.words.tolist()
        [[6], [1]]
        >>> spikes.unpack()
        tensor([[0., 1., 1.],
                [1., 0., 0.]])
    """

    __slots__ = ("num_neurons", "words")

    def __init__(self, words: Tensor, num_neurons: int) -> None:
        if not isinstance(words, Tensor) or words.dtype != torch.int32:
            got = words.dtype if isinstance(words, Tensor) else type(words).__name__
            raise TypeError(f"PackedSpikes: expected words as an int32 tensor, got {got}")
        if not isinstance(num_neurons, int) or isinstance(num_neurons, bool):
            raise TypeError(f"PackedSpikes: expected num_neurons as an int, got {type(num_neurons).__name__}")
        if num_neurons < 0:
            raise ValueError(f"PackedSpikes: expected num_neurons >= 0, got {num_neurons}")
        if words.dim() == 0 or words.shape[-1] != words_for(num_neurons):
            raise ValueError(
                f"PackedSpikes: expected words of shape [..., {words_for(num_neurons)}] for {num_neurons} neurons, "
                f"got {list(words.shape)}"
            )
        tail = num_neurons % WORD_BITS
        if tail and words.numel() and not words.is_meta and bool((words[..., -1] >> tail).any()):
            raise ValueError(f"PackedSpikes: a padding bit beyond neuron {num_neurons - 1} is set in words")
        self.words = words
        self.num_neurons = num_neurons

    @classmethod
    def _trusted(cls, words: Tensor, num_neurons: int) -> PackedSpikes:
        """Wraps words made by this library, whose padding bits are known to be 0."""
        packed = cls.__new__(cls)
        packed.words = words
        packed.num_neurons = num_neurons
        return packed

    @classmethod
    def pack(cls, spikes: Tensor) -> PackedSpikes:
        """Packs a dense tensor of zeros and ones.

        Args:
            spikes: ``[..., N]`` of any real dtype or bool, with any strides.

        Raises:
            TypeError: ``spikes`` is not a tensor of a supported dtype.
            ValueError: it has no dimension, or an element that is neither 0 nor 1.

        Example:
            >>> PackedSpikes.pack(torch.ones(4, 2, 40, dtype=torch.bool)).words.shape
            torch.Size([4, 2, 2])
        """
        packed, _, not_spikes = pack_counting(spikes)
        if not_spikes:
            raise ValueError(f"PackedSpikes.pack: expected spikes of zeros and ones, got {not_spikes} other elements")
        return packed

    def unpack(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense tensor ``[..., N]`` of zeros and ones.

        Example:
            >>> PackedSpikes.pack(torch.eye(2)).unpack(torch.bool)
            tensor([[ True, False],
                    [False,  True]])
        """
        rows = self.words.reshape(self.words.shape[:-1].numel(), self.words.shape[-1])
        return ops.unpack_spikes(rows, self.num_neurons, dtype).reshape(self.shape)

    @property
    def shape(self) -> torch.Size:
        """The logical shape ``[..., N]``."""
        return torch.Size((*self.words.shape[:-1], self.num_neurons))

    @property
    def device(self) -> torch.device:
        """Where the words lie."""
        return self.words.device

    def to(self, device: torch.device | str) -> PackedSpikes:
        """A copy on ``device``, or itself where it already lies there."""
        return self._trusted(self.words.to(device), self.num_neurons)

    def transpose(self, dim0: int, dim1: int) -> PackedSpikes:
        """Swaps two leading dimensions, as a view; the neurons stay last.

        Raises:
            ValueError: one of the dimensions is the neurons'.
        """
        last = self.words.dim() - 1
        if last in (dim0 % self.words.dim(), dim1 % self.words.dim()):
            raise ValueError("PackedSpikes.transpose: the neurons' dimension cannot be moved")
        return self._trusted(self.words.transpose(dim0, dim1), self.num_neurons)

    def counts(self, dim: int = 0) -> Tensor:
        """Spikes summed over a leading dimension, time by default: int32 ``[B, N]`` from ``[T, B, N]``.

        Example:
            >>> PackedSpikes.pack(torch.ones(5, 1, 3)).counts()
            tensor([[5, 5, 5]], dtype=torch.int32)
        """
        if dim % len(self.shape) == len(self.shape) - 1:
            raise ValueError("PackedSpikes.counts: expected a leading dimension, got the neurons'")
        summed = [s for d, s in enumerate(self.shape) if d != dim % len(self.shape)]
        total = torch.zeros(summed, dtype=torch.int32, device=self.device)
        # A step at a time: dense, all of them together need 32 times the memory.
        for words in self.words.unbind(dim % len(self.shape)):
            total += self._trusted(words, self.num_neurons).unpack(torch.int32)
        return total

    def density(self) -> float:
        """Share of neuron-steps with a spike, 0 to 1; 0 for an empty tensor.

        Example:
            >>> PackedSpikes.pack(torch.tensor([[1.0, 0.0, 0.0, 1.0]])).density()
            0.5
        """
        elements = self.shape.numel()
        rows = self.words.reshape(self.words.shape[:-1].numel(), self.words.shape[-1])
        spikes = sum(int(ops.unpack_spikes(chunk, self.num_neurons, torch.bool).sum()) for chunk in rows.split(4096))
        return spikes / elements if elements else 0.0

    def __getitem__(self, index: Index) -> PackedSpikes:
        """Indexes the leading dimensions: ``packed[t]``, ``packed[:, b]``; the neurons' dimension stays whole."""
        indices = index if isinstance(index, tuple) else (index,)
        used = sum(i is not None and i is not Ellipsis for i in indices)
        if used >= self.words.dim():
            raise IndexError(
                f"PackedSpikes: expected at most {self.words.dim() - 1} indices, got {used}: neurons are not indexed"
            )
        if Ellipsis not in indices:
            indices = (*indices, Ellipsis)
        whole = (*indices, slice(None))
        return self._trusted(self.words[whole], self.num_neurons)

    def __len__(self) -> int:
        """Size of the first dimension."""
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        """True where ``other`` holds the same spikes in the same shape on the same device."""
        if not isinstance(other, PackedSpikes):
            return NotImplemented
        if self.shape != other.shape or self.device != other.device:
            return False
        return bool(torch.equal(self.words, other.words))

    __hash__ = None  # type: ignore[assignment]  # mutable, and equal by value

    def __repr__(self) -> str:
        """Shape and device, never the spikes."""
        return f"PackedSpikes(shape={tuple(self.shape)}, device={self.device})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as its words."""
        return (PackedSpikes, (self.words, self.num_neurons))


def pack_counting(spikes: Tensor) -> tuple[PackedSpikes, int, int]:
    """Packs ``spikes``; counts what packed as spikes, and of those the elements that are neither 0 nor 1.

    >>> pack_counting(torch.tensor([0.0, 0.5, 1.0]))[1:]
    (2, 1)
    """
    if not isinstance(spikes, Tensor):
        raise TypeError(f"PackedSpikes.pack: expected a tensor, got {type(spikes).__name__}")
    if spikes.dtype not in ops.SPIKE_DTYPES:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in ops.SPIKE_DTYPES)
        raise TypeError(f"PackedSpikes.pack: expected spikes of dtype {allowed}, got {spikes.dtype}")
    if spikes.dim() == 0:
        raise ValueError("PackedSpikes.pack: expected spikes of shape [..., N], got a scalar")
    num_neurons = spikes.shape[-1]
    ops.check_backend(spikes, "pack_spikes")
    words, count, not_spikes = ops.pack_spikes(spikes.detach().reshape(spikes.shape[:-1].numel(), num_neurons))
    packed = PackedSpikes._trusted(words.reshape(*spikes.shape[:-1], words_for(num_neurons)), num_neurons)
    return packed, int(count), int(not_spikes)
