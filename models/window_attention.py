"""Shifted-window attention without the arithmetic that cannot change its output.

torchvision pads a map of features to whole windows, rolls it, cuts it into windows and then projects every token, the
padding, too: at 480 pixels a tenth of all arithmetic in `swin_t`. But query, key and value of a padded token are just
the projection's bias, and nobody reads its output. So tokens are projected where they lie; one gather pads, rolls, cuts
into windows and divides into heads, and one gather undoes it. Parameters, state dict and results are torchvision's.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformerBlock

from models.linear import linear

# Added to the logit of two tokens that share a rolled window but lie apart in the picture; torchvision's value.
APART = -100.0


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Where each token of a map goes, for one size of map, one shift and one number of heads.

    With T tokens in the map, W windows of N tokens and heads of width d, a *row* is d numbers: the part of a token that
    one head reads.

    Attributes:
        partition: (3 * W * heads * N,) int64, for every row of the windows' queries, keys and values the row of the
            projected map (T, 3, heads) it is; a padded token repeats row 0.
        partition_inverse: (T * 3 * heads,) int64, its inverse.
        merge: (T * heads,) int64, for every row of the result (T, heads) the row of the windows (W, heads, N) it is.
        merge_inverse: (W * heads * N,) int64, its inverse; a padded token repeats row 0.
        padding: (P,) int64, the rows of `partition` that are padded tokens'.
        padding_part: (P,) int64, which of the 3 * heads rows of a token each of them is.
        real: (W * heads * N, 1), 1 for a token of the map and 0 for padding.
        mask: (W, 1, N, N), 0 or APART; None if the map is not rolled.
        windows: W.
    """

    partition: torch.Tensor
    partition_inverse: torch.Tensor
    merge: torch.Tensor
    merge_inverse: torch.Tensor
    padding: torch.Tensor
    padding_part: torch.Tensor
    real: torch.Tensor
    mask: torch.Tensor | None
    windows: int


@lru_cache(maxsize=256)
def window_plan(
    height: int, width: int, window_size: tuple[int, int], shift_size: tuple[int, int], heads: int, device: torch.device
) -> WindowPlan:
    """Return the plan for a map of height x width tokens; the same object for the same arguments.

    Args:
        height, width: of the map, tokens.
        window_size, shift_size: vertical and horizontal, tokens; an axis that one window covers is not shifted.
        heads: of the attention.
        device: where the plan's tensors are.
    """
    with torch.inference_mode(False):  # or no backward pass could use a plan that was first made for scoring
        padded = [-(-length // window) * window for length, window in zip((height, width), window_size, strict=True)]
        shift = [s if window < length else 0 for s, window, length in zip(shift_size, window_size, padded, strict=True)]
        tokens = torch.full(padded, -1)  # -1: padding
        tokens[:height, :width] = torch.arange(height * width).view(height, width)
        tokens = _cut(tokens.roll([-s for s in shift], (0, 1)), window_size)  # (W, N)
        rolled = [_regions(*axis) for axis in zip(padded, window_size, shift, strict=True)]
        regions = _cut(3 * rolled[0][:, None] + rolled[1][None, :], window_size)

        windows, n = tokens.shape
        head, part = torch.arange(heads)[:, None], torch.arange(3)[:, None, None, None]
        at = tokens.clamp(min=0)[:, None, :]  # (W, 1, N)
        partition = (at * 3 + part) * heads + head  # (3, W, heads, N)
        merge_inverse = at * heads + head  # (W, heads, N)
        real = (tokens >= 0)[:, None, :].expand(windows, heads, n)
        padding = (~real).expand(3, -1, -1, -1).flatten().nonzero().squeeze(1)
        padding_part = (part * heads + head).expand(3, windows, heads, n).flatten()[padding]

        rows = torch.arange(windows * heads * n).view(windows, heads, n)
        merge = torch.empty(height * width, heads, dtype=torch.int64)
        merge[tokens[tokens >= 0]] = rows.transpose(1, 2)[tokens >= 0]
        partition_inverse = merge[:, None, :] + torch.arange(3)[:, None] * rows.numel()  # (T, 3, heads)
        mask = torch.where(regions[:, :, None] == regions[:, None, :], 0.0, APART)[:, None]
        return WindowPlan(
            partition.flatten().to(device),
            partition_inverse.flatten().to(device),
            merge.flatten().to(device),
            merge_inverse.flatten().to(device),
            padding.to(device),
            padding_part.to(device),
            real.reshape(-1, 1).float().to(device),
            mask.to(device) if any(shift) else None,
            windows,
        )


def _cut(grid: torch.Tensor, window_size: tuple[int, int]) -> torch.Tensor:
    """Cut (H, W) into windows: (windows, tokens of a window)."""
    rows, columns = window_size
    height, width = grid.shape
    return grid.view(height // rows, rows, width // columns, columns).transpose(1, 2).reshape(-1, rows * columns)


def _regions(length: int, window: int, shift: int) -> torch.Tensor:
    """Return, for each place of a rolled axis, a number that it shares with its neighbours in the picture."""
    places = torch.arange(length)
    return (places >= length - window).long() + (places >= length - shift).long() if shift else torch.zeros_like(places)


def _in_batch(index: torch.Tensor, batch: int, rows: int) -> torch.Tensor:
    """Return an index into the `rows` rows of one image as one into those of a batch: (n,) -> (batch * n,)."""
    if batch == 1:
        return index
    return (index + rows * torch.arange(batch, device=index.device)[:, None]).flatten()


class _TakeRows(torch.autograd.Function):
    """`rows.index_select(0, index)` of an index that takes every row once, given its inverse.

    The gradient is a gather like the result: faster than index_select's own, which adds row by row, and in a fixed
    order on every device. Where an index repeats a row for padding, nobody reads it; `real` is 0 there.
    """

    @staticmethod
    def forward(ctx, rows, index, inverse, real, batch):
        ctx.save_for_backward(inverse, real)
        ctx.batch = batch
        return rows.index_select(0, _in_batch(index, batch, len(rows) // batch))

    @staticmethod
    def backward(ctx, gradient):
        inverse, real = ctx.saved_tensors
        gradient = gradient.index_select(0, _in_batch(inverse, ctx.batch, len(gradient) // ctx.batch))
        if real is not None:
            gradient = gradient * real.to(gradient.dtype).repeat(ctx.batch, 1)
        return gradient, None, None, None, None


def _take_rows(
    rows: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor, batch: int, real: torch.Tensor | None = None
) -> torch.Tensor:
    """Take the rows of every image of a batch.

    Args:
        rows: (batch * R, d).
        index: (n,), into the R rows of one image.
        inverse: (R,), its inverse.
        batch: images.
        real: (R, 1), 0 where `inverse` repeats a row for padding; None where it does not.

    Returns:
        (batch * n, d).
    """
    if torch.is_grad_enabled():
        return _TakeRows.apply(rows, index, inverse, real, batch)
    return rows.index_select(0, _in_batch(index, batch, len(rows) // batch))


class WindowAttention(ShiftedWindowAttention):
    """torchvision's shifted-window attention: its parameters, its state dict, its results to rounding.

    What does not depend on the input is looked up first (`lookup`) and handed to `forward`, which is then nothing but
    arithmetic and can be compiled whole.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._kept: dict = {}

    def lookup(self, height: int, width: int) -> tuple[WindowPlan, torch.Tensor]:
        """Return the plan for a map of this size, and what is added to the logits: (windows * heads, N, N).

        The sum of position bias and mask is kept while no gradient is wanted, for each plan and precision, until the
        parameter changes; training mode, `load_state_dict` and moves forget it.
        """
        table = self.relative_position_bias_table
        plan = window_plan(height, width, tuple(self.window_size), tuple(self.shift_size), self.num_heads, table.device)
        kind = table.device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else table.dtype
        # DataParallel's replicas share this dict, and each has a copy of the parameter that lives for one pass.
        if torch.is_grad_enabled() or table.is_inference() or getattr(self, "_is_replica", False):
            return plan, self._position_bias(plan).to(dtype)
        version = (table.data_ptr(), table._version)
        kept_version, bias = self._kept.get((plan, dtype), (None, None))
        if kept_version != version:
            bias = self._position_bias(plan).to(dtype)
            self._kept[plan, dtype] = version, bias
        return plan, bias

    def forward(self, x: torch.Tensor, plan: WindowPlan, bias: torch.Tensor) -> torch.Tensor:
        """Let the tokens of every window attend to each other.

        Args:
            x: (B, H, W, C).
            plan, bias: of `lookup(H, W)`.

        Returns:
            (B, H, W, C).
        """
        batch, height, width, channels = x.shape
        heads = self.num_heads
        d = channels // heads
        n = self.window_size[0] * self.window_size[1]

        rows = linear(x, self.qkv).view(-1, d)  # (B * T * 3 * heads, d)
        rows = _take_rows(rows, plan.partition, plan.partition_inverse, batch)  # (B * 3 * W * heads * N, d)
        if len(plan.padding):
            padding = _in_batch(plan.padding, batch, len(plan.partition))
            parts = self.qkv.bias.to(rows.dtype).view(-1, d)[plan.padding_part]  # (P, d)
            rows.index_copy_(0, padding, parts.repeat(batch, 1))
        query, key, value = rows.view(batch, 3, -1, n, d).unbind(1)  # (B, W * heads, N, d) each

        if x.is_cuda:
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:  # on windows of 49 tokens two products are faster than the fused kernel: docs/performance.md
            logits = torch.baddbmm(
                bias.expand(batch, -1, -1, -1).flatten(0, 1),
                query.flatten(0, 1),
                key.flatten(0, 1).transpose(1, 2),
                alpha=d**-0.5,
            )
            attended = torch.bmm(logits.softmax(-1), value.flatten(0, 1))

        rows = attended.reshape(-1, d)  # (B * W * heads * N, d)
        rows = _take_rows(rows, plan.merge, plan.merge_inverse, batch, plan.real)
        return linear(rows.view(batch, height, width, channels), self.proj)

    def _position_bias(self, plan: WindowPlan) -> torch.Tensor:
        """Return the relative position bias, with the mask where there is one, for every window and head."""
        bias = self.get_relative_position_bias()  # (1, heads, N, N)
        bias = bias.expand(plan.windows, -1, -1, -1) if plan.mask is None else bias + plan.mask
        return bias.flatten(0, 1)

    def _forget(self) -> None:
        self._kept.clear()

    def train(self, mode: bool = True):
        self._forget()
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._forget()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs):
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)


class WindowBlock(SwinTransformerBlock):
    """torchvision's Swin block around `WindowAttention`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, attn_layer=WindowAttention, **kwargs)

    def forward(self, x: torch.Tensor, plan: WindowPlan, bias: torch.Tensor) -> torch.Tensor:
        """Attend, then transform every token, (B, H, W, C) in and out; `plan` and `bias` are the attention's lookup."""
        x = x + self.stochastic_depth(self.attn(self.norm1(x), plan, bias))
        return x + self.stochastic_depth(self._transform(self.norm2(x)))

    def _transform(self, x: torch.Tensor) -> torch.Tensor:
        widen, _, dropout, narrow, last_dropout = self.mlp
        return last_dropout(linear(dropout(linear(x, widen, gelu=True)), narrow))
