"""The layers of packed utterances as CUDA graphs: one launch for a layer's pass instead of one for each operation.

Shape suffixes: N rows (frames of all utterances and copies, see `packed.Packing`), D hidden.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sermtl.errors import UserError
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.packed import Packing, run_layer

ROWS = {"cuda": 256}
"""As `packed.ROWS`: each number of rows has graphs of its own."""


def use_graphs(model: MultiTaskModel, device: torch.device) -> None:
    """Have a model train its layers as graphs.

    Raises:
        UserError: It computes nothing that could be captured.
    """
    upstream: Any = model.upstream
    if not (upstream.packed and model.bf16 and device.type == "cuda"):
        raise UserError("cuda_graphs: true needs a GPU, bf16 and packed utterances (settings precision and layout)")
    upstream.packed_layer, upstream.rows = GraphedLayers(upstream.layers), ROWS


@dataclass
class _Layer:
    """A layer's two graphs, and the memory that they read and write."""

    input_ND: Tensor
    output_ND: Tensor
    parameters: list[Tensor]
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph = field(default_factory=torch.cuda.CUDAGraph)
    output_gradient_ND: Tensor = field(init=False)
    input_gradient_ND: Tensor | None = None
    gradients: Tensor = field(init=False)
    """Of all parameters, one after the other."""


class GraphedLayers:
    """Runs a layer as `packed.run_layer` does; where it is trained, as graphs captured at the first batch of its size.

    A forward pass must be followed by its backward pass before the next one.
    """

    def __init__(self, layers: Any):
        self.layers, self.pool = layers, torch.cuda.graph_pool_handle()
        self.sizes: dict[tuple[int, int], tuple[Packing, dict[Any, _Layer]]] = {}
        """By numbers of rows and of utterances."""
        self.copied: Packing | None = None
        """The batch whose bounds the graphs read."""

    def __call__(self, layer: Any, hidden_ND: Tensor, packing: Packing, pre_norm: bool) -> Tensor:
        """Rows (N, D) of the layer's output."""
        if not (layer.training and torch.is_grad_enabled()):
            return run_layer(layer, hidden_ND, packing, pre_norm)
        size = len(hidden_ND), len(packing.bounds)
        if size not in self.sizes:
            self.sizes[size] = self._capture(hidden_ND, packing, pre_norm)
        captured, graphs = self.sizes[size]
        if self.copied is not packing:
            captured.bounds.copy_(packing.bounds)
            self.copied = packing
        return _Replay.apply(graphs[layer], hidden_ND, *graphs[layer].parameters)

    def _capture(self, hidden_ND: Tensor, packing: Packing, pre_norm: bool) -> tuple[Packing, dict[Any, _Layer]]:
        """The graphs of all layers that are trained: forward in their order, then backward in the reverse one.

        So they can share memory: a pass begins where the one before it ended.
        """
        packing = Packing([len(hidden_ND)], packing.places_N, packing.bounds.clone(), packing.own_BT, packing.own)
        graphs: dict[Any, _Layer] = {}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with (
            torch.random.fork_rng([hidden_ND.device]),
            torch.cuda.stream(stream),
            # The casts of weights belong to the graphs.
            torch.autocast("cuda", torch.bfloat16, cache_enabled=False),
        ):
            next_ND = hidden_ND.detach().clone().requires_grad_(hidden_ND.requires_grad)
            layers = [layer for layer in self.layers if layer.training]
            # Once before: what is computed first is set up first, which no graph may contain.
            torch.autograd.grad(run_layer(layers[0], next_ND, packing, pre_norm).sum(), [*layers[0].parameters()])
            for layer in layers:
                forward = torch.cuda.CUDAGraph()
                with torch.cuda.graph(forward, self.pool, stream, "thread_local"):
                    output_ND = run_layer(layer, next_ND, packing, pre_norm)
                graphs[layer] = _Layer(next_ND, output_ND, [*layer.parameters()], forward)
                next_ND = output_ND.detach().requires_grad_()
            gradient_ND = torch.empty_like(next_ND)
            for one in reversed(graphs.values()):
                one.output_gradient_ND = gradient_ND
                inputs = [one.input_ND][: one.input_ND.requires_grad] + one.parameters
                with torch.cuda.graph(one.backward, self.pool, stream, "thread_local"):
                    found = torch.autograd.grad(one.output_ND, inputs, gradient_ND)
                    one.gradients = torch.cat([gradient.flatten() for gradient in found[-len(one.parameters) :]])
                if one.input_ND.requires_grad:
                    one.input_gradient_ND = gradient_ND = found[0]
                one.output_ND = one.output_ND.detach()
        torch.cuda.current_stream().wait_stream(stream)
        return packing, graphs


class _Replay(torch.autograd.Function):
    """A layer's pass by its graphs."""

    @staticmethod
    def forward(ctx: Any, layer: _Layer, hidden_ND: Tensor, *_parameters: Tensor) -> Tensor:
        """The layer's output, in the graphs' memory."""
        ctx.layer = layer
        _fill(layer.input_ND, hidden_ND)
        layer.forward.replay()
        return layer.output_ND.detach()

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """The input's gradient in the graphs' memory, and the parameters' in their own: parts of an update add up."""
        layer: _Layer = ctx.layer
        _fill(layer.output_gradient_ND, gradient_ND)
        layer.backward.replay()
        sizes = [parameter.numel() for parameter in layer.parameters]
        own = layer.gradients.clone().split(sizes)
        shaped = [one.view_as(parameter) for one, parameter in zip(own, layer.parameters, strict=True)]
        return None, layer.input_gradient_ND, *shaped


def _fill(place: Tensor, values: Tensor) -> None:
    if place.data_ptr() != values.data_ptr():
        place.copy_(values)
