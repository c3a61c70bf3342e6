"""Shifted-window attention that does not compute on padding.

torchvision's Swin pads the feature map to whole windows, rolls it, cuts it into windows and then projects every token
to query, key and value, padding included: at 480 pixels, a tenth of the arithmetic of `swin_t`. But the query, key and
value of a padding token are always the bias of the projection, and the attention output of padding is thrown away.

So this module projects the tokens of the map first. Padding, rolling and cutting into windows only move tokens, so one
gather with precomputed indices (`WindowPlan`) does all three and splits the heads too. A second gather puts the
attention output back in map order. Parameters, state dict and results are torchvision's.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformerBlock

# Added to the logit of two tokens that share a rolled window but are not neighbours in the image; torchvision's value.
MASKED = -100.0


@dataclass(frozen=True, eq=False)  # compared by identity, so that a plan can be a key of the bias cache
class WindowPlan:
    """Gather indices and mask for one map size, shift and number of heads.

    The map has T = height * width tokens; padded, it has W windows of N tokens each. Indices count the *rows* of one
    image: a row is the part of one token's query, key, value or output that belongs to one head, d = C / heads numbers.

    Attributes:
        partition: (3 * W * heads * N,) int64, gathers the projected map (T, 3, heads, d) into windows
            (3, W, heads, N, d). Padding tokens read row 0 and are overwritten afterwards.
        partition_inverse: (T * 3 * heads,) int64, the row of the windows that each row of the map went to.
        merge: (T * heads,) int64, gathers the attention output (W, heads, N, d) back into the map (T, heads, d).
        merge_inverse: (W * heads * N,) int64, the row of the map that each row of the windows goes to; 0 for padding.
        padding: (P,) int64, rows of (3, W, heads, N, d) that are padding.
        padding_bias: (P,) int64, the row of the projection's bias (3, heads, d) that each of them holds.
        not_padding: (W * heads * N, 1) float, 1 for tokens of the map and 0 for padding.
        mask: (W, 1, N, N), 0 or MASKED, to be added to the logits; None without a shift.
        num_windows: W.
    """

    partition: torch.Tensor
    partition_inverse: torch.Tensor
    merge: torch.Tensor
    merge_inverse: torch.Tensor
    padding: torch.Tensor
    padding_bias: torch.Tensor
    not_padding: torch.Tensor
    mask: torch.Tensor | None
    num_windows: int


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # a plan first made while scoring must also serve a backward pass
def window_plan(
    height: int, width: int, window_size: tuple[int, int], shift_size: tuple[int, int], heads: int, device: torch.device
) -> WindowPlan:
    """Build the plan for a map of height x width tokens. Cached: equal arguments give the same object.

    Args:
        height, width: of the map, in tokens.
        window_size, shift_size: vertical and horizontal, in tokens. An axis that one window covers is not shifted.
        heads: number of attention heads.
        device: of the plan's tensors.
    """
    # Pad, roll and cut a map of token numbers as Swin does with the features.
    padded = [-(-length // window) * window for length, window in zip((height, width), window_size, strict=True)]
    shift = [s if window < length else 0 for s, window, length in zip(shift_size, window_size, padded, strict=True)]
    tokens = torch.full(padded, -1)  # -1: padding
    tokens[:height, :width] = torch.arange(height * width).view(height, width)
    tokens = _to_windows(tokens.roll([-s for s in shift], (0, 1)), window_size)  # (W, N)
    is_token = tokens >= 0
    num_windows, n = tokens.shape

    # From the map (T, 3, heads) to the windows (3, W, heads, N) ...
    qkv, head = torch.arange(3)[:, None, None, None], torch.arange(heads)[:, None]
    token = tokens.clamp(min=0)[:, None, :]  # (W, 1, N)
    partition = (token * 3 + qkv) * heads + head  # (3, W, heads, N)
    merge_inverse = token * heads + head  # (W, heads, N)
    not_padding = is_token[:, None, :].expand(num_windows, heads, n)
    padding = (~not_padding).expand_as(partition).flatten().nonzero().squeeze(1)
    padding_bias = (qkv * heads + head).expand_as(partition).flatten()[padding]

    # ... and back: which row of the windows holds each token and head.
    window_rows = torch.arange(num_windows * heads * n).view(num_windows, heads, n)
    merge = torch.empty(height * width, heads, dtype=torch.int64)
    merge[tokens[is_token]] = window_rows.transpose(1, 2)[is_token]
    partition_inverse = merge[:, None, :] + torch.arange(3)[:, None] * window_rows.numel()  # (T, 3, heads)

    # Rolling joins opposite edges of the image in one window; only tokens of the same region may attend to each other.
    rows, columns = (_regions(*axis) for axis in zip(padded, window_size, shift, strict=True))
    regions = _to_windows(3 * rows[:, None] + columns, window_size)  # (W, N)
    mask = torch.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED)[:, None]  # (W, 1, N, N)

    indices = (partition, partition_inverse, merge, merge_inverse, padding, padding_bias)
    return WindowPlan(
        *(index.flatten().to(device) for index in indices),
        not_padding=not_padding.reshape(-1, 1).float().to(device),
        mask=mask.to(device) if any(shift) else None,
        num_windows=num_windows,
    )


def _to_windows(grid: torch.Tensor, window_size: tuple[int, int]) -> torch.Tensor:
    """Cut (H, W) into windows: (number of windows, tokens of a window)."""
    rows, columns = window_size
    height, width = grid.shape
    return grid.view(height // rows, rows, width // columns, columns).transpose(1, 2).reshape(-1, rows * columns)


def _regions(length: int, window: int, shift: int) -> torch.Tensor:
    """Number the stretches of a rolled axis that are contiguous in the image, as far as windows see them: 0, 1 or 2."""
    position = torch.arange(length)
    return (position >= length - window).long() + (position >= length - shift).long() if shift else 0 * position


def _batch_index(index: torch.Tensor, batch: int, rows: int) -> torch.Tensor:
    """Repeat an index into the `rows` rows of one image for each image of a batch: (n,) -> (batch * n,)."""
    if batch == 1:
        return index
    return (index + rows * torch.arange(batch, device=index.device)[:, None]).flatten()


class _GatherRows(torch.autograd.Function):
    """`index_select` along the rows, whose backward pass is a gather with the inverse index.

    torch's own backward pass scatters and adds row by row: slower, and on a GPU in no fixed order. A gather is enough
    because the index takes every row once, apart from padding, which contributes no gradient.
    """

    @staticmethod
    def forward(ctx, rows, index, inverse, not_padding, batch):
        ctx.save_for_backward(inverse, not_padding)
        ctx.batch = batch
        return rows.index_select(0, _batch_index(index, batch, len(rows) // batch))

    @staticmethod
    def backward(ctx, gradient):
        inverse, not_padding = ctx.saved_tensors
        gradient = gradient.index_select(0, _batch_index(inverse, ctx.batch, len(gradient) // ctx.batch))
        if not_padding is not None:
            gradient = gradient * not_padding.to(gradient.dtype).repeat(ctx.batch, 1)
        return gradient, None, None, None, None


def _gather_rows(
    rows: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor, batch: int, not_padding: torch.Tensor | None = None
) -> torch.Tensor:
    """Reorder the rows of every image of a batch.

    Args:
        rows: (batch * R, d).
        index: (n,), into the R rows of one image.
        inverse: (R,), for each row its position in `index`.
        batch: number of images.
        not_padding: (R, 1), 0 for rows that `index` leaves out; None if it takes all of them.

    Returns:
        (batch * n, d).
    """
    if torch.is_grad_enabled():
        return _GatherRows.apply(rows, index, inverse, not_padding, batch)
    return rows.index_select(0, _batch_index(index, batch, len(rows) // batch))


class WindowAttention(ShiftedWindowAttention):
    """torchvision's shifted-window attention: the same parameters, state dict and, up to rounding, results.

    Everything that does not depend on the features is prepared by `plan_and_bias` and passed to `forward`, which is
    pure tensor arithmetic and compiles into one graph.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._bias_cache: dict = {}

    def plan_and_bias(self, height: int, width: int) -> tuple[WindowPlan, torch.Tensor]:
        """Return the plan for a map of this size, and what to add to the logits, (W * heads, N, N).

        The second is the relative position bias plus the mask. Without gradients it is cached for each plan and dtype,
        until the parameter changes or the module is put into training mode.
        """
        table = self.relative_position_bias_table
        plan = window_plan(height, width, tuple(self.window_size), tuple(self.shift_size), self.num_heads, table.device)
        device_type = table.device.type
        autocast = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else table.dtype
        # DataParallel's replicas share this dict, but their copies of the parameter live for one pass only.
        if torch.is_grad_enabled() or table.is_inference() or getattr(self, "_is_replica", False):
            return plan, self._position_bias(plan).to(dtype)
        # The cache keeps the old table alive, so that a new one cannot have the same address.
        cached_table, version, bias = self._bias_cache.get((plan, dtype), (None, None, None))
        if cached_table is None or (cached_table.data_ptr(), version) != (table.data_ptr(), table._version):
            bias = self._position_bias(plan).to(dtype)
            self._bias_cache[plan, dtype] = table.detach(), table._version, bias
        return plan, bias

    def forward(self, x: torch.Tensor, plan: WindowPlan, bias: torch.Tensor) -> torch.Tensor:
        """Let the tokens of each window attend to each other.

        Args:
            x: (B, H, W, C).
            plan, bias: from `plan_and_bias(H, W)`.

        Returns:
            (B, H, W, C).
        """
        batch, height, width, channels = x.shape
        heads = self.num_heads
        d = channels // heads
        n = self.window_size[0] * self.window_size[1]

        # Project, then cut into windows. From here on W is the number of windows and T = height * width.
        rows = self.qkv(x).view(-1, d)  # (B * T * 3 * heads, d)
        rows = _gather_rows(rows, plan.partition, plan.partition_inverse, batch)  # (B * 3 * W * heads * N, d)
        if len(plan.padding):  # query, key and value of padding are the bias of the projection
            padding = _batch_index(plan.padding, batch, len(plan.partition))
            padding_values = self.qkv.bias.to(rows.dtype).view(-1, d)[plan.padding_bias]  # (P, d)
            rows.index_copy_(0, padding, padding_values.repeat(batch, 1))
        query, key, value = rows.view(batch, 3, -1, n, d).unbind(1)  # (B, W * heads, N, d) each

        if x.is_cuda:
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:  # two products are faster than the fused kernel for windows of 49 tokens: docs/performance.md
            logits = torch.baddbmm(
                bias.expand(batch, -1, -1, -1).flatten(0, 1),
                query.flatten(0, 1),
                key.flatten(0, 1).transpose(1, 2),
                alpha=d**-0.5,
            )  # (B * W * heads, N, N)
            attended = torch.bmm(logits.softmax(-1), value.flatten(0, 1))  # (B * W * heads, N, d)

        rows = attended.reshape(-1, d)  # (B * W * heads * N, d)
        rows = _gather_rows(rows, plan.merge, plan.merge_inverse, batch, plan.not_padding)  # (B * T * heads, d)
        return self.proj(rows.view(batch, height, width, channels))

    def _position_bias(self, plan: WindowPlan) -> torch.Tensor:
        """Return the relative position bias plus the mask, for every window and head: (W * heads, N, N)."""
        bias = self.get_relative_position_bias()  # (1, heads, N, N)
        bias = bias.expand(plan.num_windows, -1, -1, -1) if plan.mask is None else bias + plan.mask
        return bias.flatten(0, 1)

    def train(self, mode: bool = True):
        self._bias_cache.clear()
        return super().train(mode)


class WindowBlock(SwinTransformerBlock):
    """torchvision's Swin block with `WindowAttention`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, attn_layer=WindowAttention, **kwargs)

    def forward(self, x: torch.Tensor, plan: WindowPlan, bias: torch.Tensor) -> torch.Tensor:
        """Attention, then MLP: (B, H, W, C) -> (B, H, W, C). `plan` and `bias` are those of the attention."""
        x = x + self.stochastic_depth(self.attn(self.norm1(x), plan, bias))
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))
