"""Networks as they run for scoring: batch normalisation folded into convolutions, weights kept in half precision.

In evaluation a batch normalisation scales and shifts each channel by constants, and so can a convolution's own weights.
On a CPU, light networks spend half their time on it, because it reads and writes every activation once more.
"""

import copy
from collections import Counter
from collections.abc import Callable, Container, Mapping

import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


def foldable_norms(network: nn.Module, run: Callable[[], object]) -> dict[str, str]:
    """Return, by name, the convolutions whose output only a batch normalisation reads, and that normalisation.

    Args:
        network: in evaluation mode.
        run: passes a batch through it.
    """
    watch = _Watch(network)
    with watch:
        run()
    names = {module: name for name, module in network.named_modules()}
    return {names[convolution]: names[norm] for convolution, norm in watch.pairs()}


class _Watch(TorchFunctionMode):
    """Notes which convolution's output each batch normalisation reads, and how often each output is read."""

    def __init__(self, network: nn.Module):
        super().__init__()
        modules = list(network.modules())
        self.convolutions = {id(module.weight): module for module in modules if isinstance(module, nn.Conv2d)}
        self.norms = {id(module.running_mean): module for module in modules if type(module) in NORMS}
        self.outputs: dict[int, tuple[torch.Tensor, nn.Conv2d]] = {}  # holds the tensors: no other has the same id
        self.readers: dict[int, nn.BatchNorm2d] = {}
        self.reads: Counter = Counter()
        self.calls: Counter = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        inputs = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(result)):  # others ask for a shape or a dtype
            self.reads.update(inputs & self.outputs.keys())
        if function is nn.functional.conv2d:
            for key in inputs & self.convolutions.keys():
                self.outputs[id(result)] = result, self.convolutions[key]
                self.calls[self.convolutions[key]] += 1
        elif function is nn.functional.batch_norm:
            for key in inputs & self.norms.keys():
                self.calls[self.norms[key]] += 1
                self.readers |= dict.fromkeys(inputs & self.outputs.keys(), self.norms[key])
        return result

    def pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Return each convolution with the normalisation that alone reads its output; each module is called once."""
        pairs = [(self.outputs[key][1], norm) for key, norm in self.readers.items() if self.reads[key] == 1]
        return [pair for pair in pairs if self.calls[pair[0]] == self.calls[pair[1]] == 1]


def _after_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what is left of a folded normalisation."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


NORMS = (nn.BatchNorm2d, BatchNormAct2d)  # what `_after_norm` knows
HALVED = (nn.Conv2d, nn.Linear)  # layers that autocast runs in half precision


class ScoringCopies:
    """The scoring copies of a trunk: one for each device and dtype, made when it is first needed."""

    def __init__(self):
        self._copies: dict[tuple[torch.device, torch.dtype], ScoringCopy] = {}

    def __deepcopy__(self, memo: dict) -> "ScoringCopies":
        return ScoringCopies()  # a copied trunk makes its own

    def network_for(self, trunk: nn.Module, device: torch.device) -> nn.Module:
        """Return the copy of a trunk that computes a pass under the present autocast, or the trunk itself.

        Args:
            trunk: a `models.backbones.Trunk`.
            device: of the pass.
        """
        # DataParallel's replicas share the copies, but have no parameters(): their weights live for one pass only.
        is_replica = getattr(trunk, "_is_replica", False)
        if is_replica or trunk.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return trunk
        dtype = torch.float32
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        weight = next(trunk.parameters())
        nothing_to_gain = weight.dtype != torch.float32 or (dtype == torch.float32 and not trunk.foldable)
        if nothing_to_gain or weight.is_inference():  # inference tensors do not count their changes
            return trunk
        with torch.inference_mode(False):  # a copy first made while scoring must follow later training steps
            if (device, dtype) not in self._copies:
                self._copies[device, dtype] = ScoringCopy(trunk, trunk.foldable, dtype, trunk.precise)
                if trunk.compiled:
                    self._copies[device, dtype].network.compile_features()
            scoring_copy = self._copies[device, dtype]
            scoring_copy.update(trunk)
        return scoring_copy.network


class ScoringCopy:
    """A copy of a network for passes without gradients in evaluation mode; it follows the network's weights.

    Args:
        network: to be copied.
        norms: from `foldable_norms`; they are folded.
        dtype: of the weights of convolutions and linear layers.
        precise: names of layers that compute in float32 also under autocast.
    """

    def __init__(
        self,
        network: nn.Module,
        norms: Mapping[str, str],
        dtype: torch.dtype,
        precise: Container[str] = (),
    ):
        self.norms = norms
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        for name, norm_name in norms.items():
            convolution, norm = self.network.get_submodule(name), self.network.get_submodule(norm_name)
            convolution.bias = nn.Parameter(torch.empty_like(norm.running_mean), requires_grad=False)
            self.network.set_submodule(norm_name, _after_norm(norm))
        layers = {name: module for name, module in self.network.named_modules() if isinstance(module, HALVED)}
        for name, module in layers.items():
            if name not in precise:
                module.to(dtype)
        self._tensors = self.network.state_dict(keep_vars=True)
        for name, module in layers.items():
            if name in precise and dtype != torch.float32:
                self.network.set_submodule(name, _FullPrecision(module))
        self._versions: list[tuple[int, int]] = []
        self._source: list[torch.Tensor] = []

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take over the weights of the network, if they have changed."""
        groups = (group for module in network.modules() for group in (module._parameters, module._buffers))
        tensors = [tensor for group in groups for tensor in group.values() if tensor is not None]
        versions = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if versions == self._versions:
            return
        state = network.state_dict()
        for name, norm_name in self.norms.items():
            convolution, norm = network.get_submodule(name), network.get_submodule(norm_name)
            state[f"{name}.weight"], state[f"{name}.bias"] = _folded(convolution, norm)
        for name, tensor in self._tensors.items():
            tensor.copy_(state[name])
        self._versions = versions
        self._source = [tensor.detach() for tensor in tensors]  # kept, so that no new one has the same address


class _FullPrecision(nn.Module):
    """Runs a layer without autocast."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x.float())


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and bias of a convolution with the normalisation after it."""
    weight, bias, mean, variance = (
        None if tensor is None else tensor.double()
        for tensor in (convolution.weight, convolution.bias, norm.running_mean, norm.running_var)
    )
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = (bias if bias is not None else 0) - mean
    shift = shift * scale + (norm.bias.double() if norm.affine else 0)
    return weight * scale.view(-1, 1, 1, 1), shift
