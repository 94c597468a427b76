"""The trained parameters of several learners, stacked so that one pass computes them all.

Each module that owns trained parameters is replaced by one that holds them E times. It is given the
rows of all learners, one learner's behind another's, and computes each learner's with its own. All
the rest (frozen modules, attention, masks, rotations) sees one large batch and runs its own
kernels. A vmap over whole layers would do the same, but its rule for attention on a CPU is a loop,
and under autocast it computes biases in float32.

Shapes: ``E`` learners, ``A`` of them in a pass, ``N`` rows of all of these, ``I`` and ``O`` sizes
of a linear layer's input and output, ``X`` vectors of one learner.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from raise_mdit.errors import ModelError


class ParameterStack:
    """Every trained parameter as one tensor [E, ...], and which learners compute."""

    def __init__(self, layers: nn.ModuleList, *, num_learners: int) -> None:
        """Replaces modules of ``layers``, which are from here on given the chosen learners' rows.

        Raises:
            ModelError: Parameters belong to a module that cannot be stacked.
        """
        self.num_learners = num_learners
        self._choice = _Choice(num_learners)
        self._parameters: list[nn.Parameter] = []
        for name, module in list(layers.named_modules()):
            if not any(weight.requires_grad for weight in module.parameters(recurse=False)):
                continue
            _check_stackable(module)
            stacked = self._stacked(module)
            layers.set_submodule(name, stacked)
            self._parameters += stacked.parameters(recurse=False)
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)

    def choose(self, learners: Sequence[int]) -> None:
        """Let the next passes compute these learners, their rows in this order."""
        self._choice.count = len(learners)
        everyone = list(learners) == list(range(self.num_learners))
        device = self._parameters[0].device
        self._choice.indices_A = None if everyone else torch.tensor(learners, device=device)

    def of(self, learner: int) -> list[nn.Parameter]:
        """The parameters of one learner, in the model's order: views, as are their gradients."""
        views = [nn.Parameter(stack.detach()[learner]) for stack in self._parameters]
        for view, stack in zip(views, self._parameters, strict=True):
            assert stack.grad is not None
            view.grad = stack.grad[learner]
        return views

    def _stacked(self, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Linear | Conv1D):
            return _StackedLinear(module, self._choice)
        return _StackedModule(module, self._choice)


class _Choice:
    """Which learners' rows the modules are given."""

    def __init__(self, num_learners: int) -> None:
        self.num_learners = num_learners
        self.count = num_learners
        self.indices_A: torch.Tensor | None = None
        """None for all, in order: then nothing is copied."""

    def stack(self, parameter: torch.Tensor) -> nn.Parameter:
        """[E, ...] copies."""
        return nn.Parameter(parameter.detach().expand(self.num_learners, *parameter.shape).clone())

    def take(self, stack: torch.Tensor) -> torch.Tensor:
        """[A, ...] the chosen learners' parameters."""
        return stack if self.indices_A is None else stack.index_select(0, self.indices_A)


class _StackedLinear(nn.Module):
    """One product for each learner, by the batched product that autocast knows."""

    def __init__(self, module: nn.Linear | Conv1D, choice: _Choice) -> None:
        super().__init__()
        self.weight = choice.stack(module.weight)
        self.bias = None if module.bias is None else choice.stack(module.bias)
        self._is_output_first = isinstance(module, nn.Linear)  # Conv1D stores [I, O]
        self._choice = choice

    def forward(self, rows_NTI: torch.Tensor) -> torch.Tensor:
        weight = self._choice.take(self.weight)
        weight_AIO = weight.mT if self._is_output_first else weight
        rows_AXI = rows_NTI.reshape(self._choice.count, -1, rows_NTI.shape[-1])
        if self.bias is None:
            out_AXO = torch.bmm(rows_AXI, weight_AIO)
        else:
            bias_A1O = self._choice.take(self.bias)[:, None]
            out_AXO = torch.baddbmm(bias_A1O, rows_AXI, weight_AIO)
        return out_AXO.view(*rows_NTI.shape[:-1], -1)


class _StackedModule(nn.Module):
    """Any module of one input, such as a norm."""

    def __init__(self, module: nn.Module, choice: _Choice) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            self.register_parameter(name, choice.stack(parameter))
        self._module = module.requires_grad_(False)
        self._choice = choice

    def forward(self, rows_NTH: torch.Tensor) -> torch.Tensor:
        own = {
            name: self._choice.take(stack) for name, stack in self.named_parameters(recurse=False)
        }
        parts = rows_NTH.unflatten(0, (self._choice.count, -1))
        done: torch.Tensor = torch.vmap(self._compute)(own, parts)
        return done.flatten(0, 1)

    def _compute(self, parameters: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(self._module, parameters, (rows,))
        return out


def _check_stackable(module: nn.Module) -> None:
    takes_one = len(inspect.signature(module.forward).parameters) == 1
    if not takes_one or next(module.children(), None) is not None:
        raise ModelError(
            f"learner.trainable: {type(module).__name__} has trained parameters and is neither a "
            "linear layer nor a norm, so several learners cannot share its pass; "
            "set parallel_episodes to 1, or train lora"
        )
