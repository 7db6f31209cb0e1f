"""The artificial networks that the spiking ones are compared with, in plain PyTorch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from spikefuse.paper.models.config import Configured, number

_OPTIMIZERS: Final = ("adam", "sgd")


@dataclasses.dataclass(frozen=True)
class ANNRule:
    """Settings of the artificial network's training.

    One epoch of MNIST at the defaults reaches a test MSE of 0.13 to 0.15, SGD with ``lr=0.01`` 0.26 to 0.29. At the lr
    of 0.1 that the paper's text gives, SGD learns nothing: every ReLU falls silent.

    Args:
        optimizer: "adam", with moments that run on over all batches, or "sgd".
        lr: learning rate, >= 0.
        weight_decay: added to the gradient as ``weight_decay * w``, >= 0. The paper's text says 1e-4.

    Raises:
        ValueError: a name or number outside its range.

    Example:
        >>> ANNRule().optimizer
        'adam'
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(f"ANNRule: expected optimizer as one of {', '.join(_OPTIMIZERS)}, got {self.optimizer!r}")
        for name in ("lr", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"ANNRule: expected a finite {name} >= 0, got {getattr(self, name)!r}")


def _rule(settings: Mapping[str, Any]) -> ANNRule:
    """Makes a rule of its plain values."""
    return ANNRule(**settings)


@dataclasses.dataclass(frozen=True)
class ANNStats:
    """Report on one batch of the artificial network's training."""

    loss: float
    """1/2 sum (output - target)^2 over outputs, mean over the batch, before the step."""
    outputs: Tensor
    """``[B, out_features]``, before the step; carries no gradient."""


class ReLUNetwork(nn.Module):
    """``relu(relu(x W_encoder^T) W_decoder^T)`` without biases, trained by backpropagation.

    The loss is ``1/2 sum (output - target)^2``, summed over outputs, mean over the batch. Base of the artificial
    autoencoder and audiocoder, which say what a target is.

    Args:
        in_features: number of inputs, >= 1.
        hidden_features: number of hidden units, >= 1.
        out_features: number of outputs, >= 1.
        rule: of the training.
        init_bound: initial weights are uniform in +- this.
        generator: of the initial weights, on the CPU; None for torch's global one.
        fused: whether torch's optimizer updates a weight in one pass, ten times as fast where the layers are large.

    Raises:
        ValueError: a size below 1, or an ``init_bound`` that is not finite and > 0.

    Example:
        >>> ReLUNetwork(6, 4, 2, ANNRule())(torch.rand(3, 6)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        rule: ANNRule,
        *,
        init_bound: float = 0.01,
        generator: torch.Generator | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{type(self).__name__}: expected {name} >= 1, got {size}")
        if not 0 < init_bound < math.inf:
            raise ValueError(f"{type(self).__name__}: expected a finite init_bound > 0, got {init_bound}")
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.out_features = out_features
        self.rule = rule
        self.init_bound = init_bound
        self.encoder_weight = nn.Parameter(torch.empty(hidden_features, in_features))
        self.decoder_weight = nn.Parameter(torch.empty(out_features, hidden_features))
        for weight in self.parameters():
            nn.init.uniform_(weight, -init_bound, init_bound, generator=generator)
        settings: dict[str, Any] = {"lr": rule.lr, "weight_decay": rule.weight_decay, "fused": fused}
        make = torch.optim.Adam if rule.optimizer == "adam" else torch.optim.SGD
        self.optimizer: torch.optim.Optimizer = make(self.parameters(), **settings)

    def encode(self, x: Tensor) -> Tensor:
        """Hidden activations ``[B, hidden_features]`` of inputs ``[B, in_features]``."""
        return torch.relu(nn.functional.linear(x, self.encoder_weight))

    def decode(self, hidden: Tensor) -> Tensor:
        """Outputs ``[B, out_features]`` of hidden activations ``[B, hidden_features]``."""
        return torch.relu(nn.functional.linear(hidden, self.decoder_weight))

    def forward(self, x: Tensor) -> Tensor:
        """``decode(encode(x))``."""
        return self.decode(self.encode(x))

    def _step(self, x: Tensor, targets: Tensor) -> ANNStats:
        """One step of the optimizer on inputs that have been checked."""
        outputs = self(x)
        loss = 0.5 * (outputs - targets).square().sum() / len(x)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"{type(self).__name__}: the loss became {value} at lr = {self.rule.lr}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return ANNStats(value, outputs.detach())

    def optimizer_state(self) -> dict[str, Tensor]:
        """Returns the optimizer's state as ``"<parameter>.<name>"``; empty for SGD."""
        return {
            f"{parameter}.{name}": value
            for parameter, weight in self.named_parameters()
            for name, value in self.optimizer.state.get(weight, {}).items()
            if isinstance(value, Tensor)
        }

    def load_optimizer_state_(self, state: Mapping[str, Tensor]) -> None:
        """Takes back :meth:`optimizer_state`.

        Raises:
            ValueError: a tensor of another shape than its parameter, or of a parameter that there is not.
        """
        parameters = dict(self.named_parameters())
        nested: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            parameter, _, name = key.rpartition(".")
            if parameter not in parameters or value.shape not in (parameters[parameter].shape, torch.Size([])):
                raise ValueError(
                    f"{type(self).__name__}: optimizer state {key!r} of shape {list(value.shape)} fits no parameter"
                )
            nested.setdefault(list(parameters).index(parameter), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": nested})

    def extra_repr(self) -> str:
        """Sizes and optimizer."""
        sizes = f"in_features={self.in_features}, hidden_features={self.hidden_features}"
        if self.out_features != self.in_features:
            sizes += f", out_features={self.out_features}"
        return f"{sizes}, optimizer={self.rule.optimizer}"


class ANNAutoencoder(Configured, ReLUNetwork):
    """A :class:`ReLUNetwork` that learns to put out the images that it is given.

    The loss is ``1/2 sum (output - image)^2``, summed over pixels, mean over the batch.

    Args:
        in_features: number of pixels, >= 1.
        hidden_features: number of hidden units, >= 1.
        rule: of the training.
        init_bound: initial weights are uniform in +- this.
        generator: of the initial weights, on the CPU; None for torch's global one.

    Raises:
        ValueError: a size below 1, or an ``init_bound`` that is not finite and > 0.

    Example:
        >>> model = ANNAutoencoder(64, 32, ANNRule())
        >>> images = torch.rand(10, 64)
        >>> model.learn_(images).loss > model.learn_(images).loss
        True
    """

    KIND = "ann"
    SETTINGS: ClassVar = {"in_features": number, "hidden_features": number, "init_bound": number, "rule": _rule}

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        rule: ANNRule,
        *,
        init_bound: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, hidden_features, in_features, rule, init_bound=init_bound, generator=generator)

    def learn_(self, images: Tensor) -> ANNStats:
        """One step of the optimizer on one batch.

        Args:
            images: fp32 ``[B, in_features]``, B >= 1.

        Raises:
            ValueError: images of another shape.
            FloatingPointError: the loss is not finite (a learning rate far too large); the weights are as they were.
        """
        if images.dim() != 2 or images.shape[1] != self.in_features or len(images) == 0:
            raise ValueError(
                f"ANNAutoencoder: expected images of shape [B, {self.in_features}], got {list(images.shape)}"
            )
        return self._step(images, images)


class ANNAudiocoder(Configured, ReLUNetwork):
    """A :class:`ReLUNetwork` that learns to put out an artificial autoencoder's hidden vector of an image.

    The baseline of the spiking :class:`spikefuse.paper.models.Audiocoder` (PAPER's AC-ANN, 58,500-2,048-196). The
    loss is ``1/2 sum (output - target)^2``, summed over outputs, mean over the batch. Targets may be :func:`quantized`.

    Args:
        in_features: number of inputs of a cochleagram, >= 1.
        hidden_features: number of hidden units, >= 1.
        out_features: the autoencoder's hidden units, >= 1.
        rule: of the training; None for what the paper says, Adam with lr and weight decay 1e-4.
        init_bound: initial weights are uniform in +- this.
        generator: of the initial weights, on the CPU; None for torch's global one.

    Raises:
        ValueError: a size below 1, or an ``init_bound`` that is not finite and > 0.

    Example:
        >>> model = ANNAudiocoder(300, 32, 16)
        >>> rates, hidden = torch.rand(10, 300), torch.rand(10, 16)
        >>> model.learn_(rates, hidden).loss > model.learn_(rates, hidden).loss
        True
    """

    KIND = "ann-audiocoder"
    SETTINGS: ClassVar = {
        "in_features": number,
        "hidden_features": number,
        "out_features": number,
        "init_bound": number,
        "rule": _rule,
    }

    def __init__(
        self,
        in_features: int = 58_500,
        hidden_features: int = 2_048,
        out_features: int = 196,
        rule: ANNRule | None = None,
        *,
        init_bound: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        rule = ANNRule(lr=1e-4, weight_decay=1e-4) if rule is None else rule
        super().__init__(
            in_features, hidden_features, out_features, rule, init_bound=init_bound, generator=generator, fused=True
        )

    def learn_(self, rates: Tensor, targets: Tensor) -> ANNStats:
        """One step of the optimizer on one batch.

        Args:
            rates: cochleagrams, fp32 ``[B, in_features]``, B >= 1.
            targets: hidden vectors, fp32 ``[B, out_features]``.

        Raises:
            ValueError: rates or targets of another shape.
            FloatingPointError: the loss is not finite (a learning rate far too large); the weights are as they were.
        """
        if rates.dim() != 2 or rates.shape[1] != self.in_features or len(rates) == 0:
            raise ValueError(f"ANNAudiocoder: expected rates of shape [B, {self.in_features}], got {list(rates.shape)}")
        if list(targets.shape) != [len(rates), self.out_features]:
            raise ValueError(
                f"ANNAudiocoder: expected targets of shape {[len(rates), self.out_features]}, got {list(targets.shape)}"
            )
        return self._step(rates, targets)
