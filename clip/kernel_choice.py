"""Whether the closed forms of `clip.derivatives` are computed by the kernels of `clip.fused`; for the whole process."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from clip import derivatives
from clip.derivatives import AttentionTrace, Norm, QuickGELUForm
from clip.model import QuickGELU
from clip.packed_text import PackedPrompts, PackedRows
from clip.towers import EveryRow
from dassl.utils.errors import UserError, one_line

CHOICES = ("auto", "on", "off")


def choose_kernels(choice: str, device: torch.device) -> None:
    """For a config's TRAINER.FUSED: auto (on a GPU with a working Triton), on or off. On a CPU, "on" prints a line.

    Raises:
        UserError: unknown choice; or "on", and the kernels do not work on this GPU.
    """
    derivatives.kernels = None
    if choice not in CHOICES:
        raise UserError(f"unknown TRAINER.FUSED {choice!r}: choose one of {', '.join(CHOICES)}")
    if choice == "off":
        return
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        if choice == "on":
            print("TRAINER.FUSED on needs a GPU: plain PyTorch is used")
        return
    try:
        from clip import fused

        results = [_results(device)]
        derivatives.kernels, derivatives.kernels_run_on = fused, device.type
        results.append(_results(device))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    except Exception as error:  # a missing package or compiler, a GPU that Triton does not know, wrong numbers
        derivatives.kernels = None
        reason = one_line(error)
        if choice == "on":
            raise UserError(f"TRAINER.FUSED on: the kernels do not work here ({reason}); set it to off") from error
        print(f"TRAINER.FUSED auto: the kernels do not work here ({reason}); plain PyTorch is used")


@torch.no_grad()
def _results(device: torch.device) -> list[Tensor]:
    """Every form that has a kernel, on a few rows that are the same each time."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    layer = torch.nn.LayerNorm(24, device=device)
    layer.weight.copy_(draw(24))
    x, ddy, dy, tangent = draw(1, 3, 24), draw(1, 3, 24), draw(2, 1, 3, 24), draw(2, 1, 3, 24)
    y, norm = Norm.forward(x, layer, x.dtype, added=ddy)
    pulled, pushed = norm.pull(dy, residual=tangent), norm.push(tangent, x.dtype, added=dy)
    results = [norm.x, y, *pulled, *pushed, norm.second(ddy, dy, pulled[0], pushed[0], pushed[1], residual=x)]
    form = QuickGELUForm()
    results += form.of_linear(x, (draw(40, 24), draw(40)))
    results += [form.times_slope(dy, x), form.second(ddy, dy, tangent, x), QuickGELU()(x)]
    q, k, v = draw(2, 3, 5), draw(2, 4, 5), draw(2, 4, 5)
    o, attention = AttentionTrace.forward(q, k, v, None, q[:1, :1, :1])
    cotangents, kept = attention.pull(draw(2, 3, 2, 5))
    o_tangent, kept_too = attention.push(draw(2, 3, 2, 5), draw(2, 2, 4, 5), draw(2, 4, 2, 5))
    packed = PackedPrompts.from_tokens(torch.tensor([[8, 1, 9, 0], [8, 2, 3, 9]])).to(device)
    for layout in (EveryRow(1, 6, 4, 2), PackedRows(packed, 1, 2)):
        parts = layout.split(draw(2, 1, layout.length, 3 * 2 * 4))
        results += [*parts, layout.split_back(*parts), layout.merge_back(layout.merge(parts[0]))]
    return [*results, o, *cotangents, o_tangent, *attention.second(draw(2, 3, 1, 5), kept, kept_too)]
