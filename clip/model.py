"""CLIP's two towers under OpenAI's state-dict names, with prompts as arguments of the forward functions.

Nothing learned lives here: a tower is a fixed function of its input and of the prompt tensors passed to it, so that
`torch.func` can differentiate it with respect to them and one tower serves every method.

Shape legend: B images, N sequences, L positions, d tower width, h heads, e joint embedding, n prompt tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.derivatives import QuickGELUForm, kernels_for
from clip.packed_text import PackedPrompts, encode_prompts
from clip.towers import Appended, EveryRow, Tower, features, only_prompts_move

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps queries [N, K, h, d/h], keys and values [N, L, h, d/h] to the attended values [N, K, h, d/h]."""

RowSelection = Callable[[Tensor], Tensor]
"""Picks positions: [..., L, d] -> [..., K, d]."""

HEAD_WIDTH = 64


class LayerNorm(nn.LayerNorm):
    """Layer norm in the precision of its parameters (float32 also in a float16 tower)."""

    def forward(self, input: Tensor) -> Tensor:
        x = input  # PyTorch's name
        if (kernels := kernels_for(x)) is not None and self.weight.dtype == torch.float32:
            _, y, _, _ = kernels.norm_forward(x, None, self.weight, self.bias, self.eps, x.dtype)
            return y
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU: x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        if (kernels := kernels_for(x)) is not None:
            return kernels.quick_gelu_value(x, QuickGELUForm.scale)
        return x * torch.sigmoid(1.702 * x)


def attend(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False) -> Tensor:
    """PyTorch's attention on [..., L, d/h] in the precision of its inputs.

    Left on, autocast reaches into the kernel's decomposition and breaks its derivatives under `torch.func`.
    """
    if not torch.is_autocast_enabled(q.device.type):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    with torch.autocast(q.device.type, enabled=False):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query sees every position. Shapes as in `Attention`."""
    return attend(*(t.transpose(-3, -2) for t in (q, k, v))).transpose(-3, -2)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Position i sees positions 0..i. All [N, L, h, d/h]."""
    q, k, v = (t.transpose(-3, -2) for t in (q, k, v))  # [N, h, L, d/h]
    return attend(q, k, v, is_causal=True).transpose(-3, -2)


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Additive mask [L, L]: 0 up to the diagonal, -inf above it; of the dtype and on the device of `like`."""
    return like.new_full((length, length), float("-inf")).triu(1)


class FeedForward(nn.Sequential):
    """Two linear layers with an activation between them, under OpenAI's names."""

    c_fc: nn.Linear
    gelu: nn.Module
    c_proj: nn.Linear

    def __init__(self, width: int, hidden: int, activation: type[nn.Module]) -> None:
        layers = dict(c_fc=nn.Linear(width, hidden), gelu=activation(), c_proj=nn.Linear(hidden, width))
        super().__init__(OrderedDict(layers))


class ResidualAttentionBlock(nn.Module):
    """Pre-norm transformer block. What a position attends to is decided by the caller (see `transform`).

    Args:
        context_length: positions of a causal tower; None where every position sees every other. Only the parts that
            OpenAI's block has (`forward`, `attention`, `attn_mask`) go by it.
        mlp_width: of the MLP's hidden layer, four times `width` by default.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        activation: type[nn.Module],
        context_length: int | None = None,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = FeedForward(width, mlp_width or 4 * width, activation)
        self.ln_2 = LayerNorm(width)
        self.heads = heads
        self.context_length = context_length

    def transform(self, x: Tensor, attention: Attention, wanted: RowSelection | None = None) -> Tensor:
        """x [..., L, d] -> [..., L, d]; all but `attention` works position by position.

        Args:
            wanted: the positions that are read from the output, [..., K, d]; the others only serve as keys and values.
        """
        normed, weight, bias = self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias
        if wanted is None:
            qkv = F.linear(normed, weight, bias).unflatten(-1, (3, self.heads, -1))  # [..., L, 3, h, d/h]
            q, k, v = qkv.unbind(-3)
        else:
            x, d = wanted(x), x.shape[-1]
            q = F.linear(wanted(normed), weight[:d], bias[:d]).unflatten(-1, (self.heads, -1))  # [..., K, h, d/h]
            k, v = F.linear(normed, weight[d:], bias[d:]).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        x = x + self.attn.out_proj(attention(q, k, v).flatten(-2))
        return x + self.mlp(self.ln_2(x))

    @property
    def attn_mask(self) -> Tensor | None:
        """OpenAI's additive mask [L, L], to be read only; None where every position sees every other."""
        return None if self.context_length is None else causal_mask(self.context_length, self.attn.in_proj_weight)

    def attention(self, x: Tensor) -> Tensor:
        """OpenAI's attention on normed rows: x [L, N, d] -> [L, N, d]"""
        mask = self.attn_mask
        mask = None if mask is None else mask[: len(x), : len(x)]
        return self.attn(x, x, x, need_weights=False, attn_mask=mask)[0]

    def forward(self, x: Tensor) -> Tensor:
        """x [L, N, d] -> [L, N, d], positions first, as OpenAI's block."""
        attention = full_attention if self.context_length is None else causal_attention
        return self.transform(x.transpose(0, 1), attention).transpose(0, 1)


class Transformer(nn.Module):
    """A stack of blocks. `forward` is OpenAI's; the towers here drive `resblocks` themselves."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        activation: type[nn.Module],
        context_length: int | None = None,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.Sequential(
            *(ResidualAttentionBlock(width, heads, activation, context_length, mlp_width) for _ in range(layers))
        )

    @property
    def blocks(self) -> list[ResidualAttentionBlock]:
        """The modules of `resblocks`."""
        return cast("list[ResidualAttentionBlock]", list(self.resblocks))

    def forward(self, x: Tensor) -> Tensor:
        """x [L, N, d] -> [L, N, d], positions first."""
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    """ViT image tower. `forward(images, prompts)` takes visual prompts, one tensor a layer."""

    def __init__(
        self,
        input_resolution: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        output_dim: int,
        activation: type[nn.Module] = QuickGELU,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        positions = (input_resolution // patch_size) ** 2 + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(positions, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation, mlp_width=mlp_width)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def forward(self, images: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """Image features, not normalised.

        Args:
            images: [B, 3, H, W], normalised pixels.
            prompts: tensors [n, d]; `prompts[0]` is appended after the patches (no position is added to it, it
                passes the first layer norm), `prompts[l]` takes its place at the input of layer l.

        Returns:
            [B, e]
        """
        blocks = self.transformer.blocks
        if len(prompts) > len(blocks):
            raise ValueError(f"{len(prompts)} visual prompts for {len(blocks)} layers")
        if only_prompts_move(self, prompts, images):
            tower = self.tower(images, len(prompts[0]), len(prompts))
            return features(tower, prompts[0][None], *prompts[1:])[:, 0]
        x = self.embed(images)
        length = x.shape[1]
        if prompts:
            x = _with_tail(x, prompts[0])
        x = self.ln_pre(x)
        last = len(blocks) - 1
        for layer, block in enumerate(blocks):
            if 0 < layer < len(prompts):
                x = _with_tail(x, prompts[layer])
            if layer == last:
                wanted = _first  # only the class token is read
            elif layer + 1 < len(prompts):
                wanted = _head(length)  # the next layer brings its own prompts
            else:
                wanted = None
            x = block.transform(x, full_attention, wanted)
        return self.ln_post(x[:, 0]) @ self.proj.to(x.dtype)

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> rows without prompts [B, 1 + patches, d], class token first; before `ln_pre`."""
        x = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # [B, patches, d]
        start = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        return torch.cat([start, x], dim=1) + self.positional_embedding.to(x.dtype)

    def tower(self, images: Tensor, n: int, depth: int) -> Tower:
        """The function of prompts, `n` rows each in the first `depth` layers, that this is for images [B, 3, H, W]."""
        rows = self.ln_pre(self.embed(images))
        blocks = self.transformer.blocks
        sequences, length = rows.shape[:2]
        layouts = []
        for layer in range(len(blocks)):
            is_last, brings_own = layer == len(blocks) - 1, layer + 1 < depth
            keep = 1 if is_last else length if brings_own else length + n
            layouts.append(EveryRow(sequences, length + n, keep, blocks[0].heads))
        return Tower(
            blocks=blocks,
            layouts=layouts,
            place=Appended(),
            before=rows,
            start_norm=self.ln_pre,
            norm=self.ln_post,
            projection=self.proj,
        )


def _first(x: Tensor) -> Tensor:
    return x[:, :1]


def _head(length: int) -> RowSelection:
    return lambda x: x.split([length, x.shape[1] - length], dim=1)[0]  # backward: one concatenation


def _with_tail(x: Tensor, prompt: Tensor) -> Tensor:
    """x [B, L, d] and prompt [n, d] -> [B, L + n, d]"""
    return torch.cat([x, prompt.to(x.dtype).expand(x.shape[0], -1, -1)], dim=1)


class Bottleneck(nn.Module):
    """ResNet bottleneck whose stride is an average pool before the last convolution."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.downsample = None
        if stride > 1 or inplanes != planes * self.expansion:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            convolution = nn.Conv2d(inplanes, planes * self.expansion, 1, bias=False)
            norm = nn.BatchNorm2d(planes * self.expansion)
            self.downsample = nn.Sequential(OrderedDict([("-1", pool), ("0", convolution), ("1", norm)]))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class AttentionPool2d(nn.Module):
    """Multi-head attention whose one query is the mean over the feature map."""

    def __init__(self, spatial: int, width: int, heads: int, output_dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(spatial**2 + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output_dim)
        self.num_heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """x [B, d, H, W] -> [B, e]"""
        x = x.flatten(2).transpose(1, 2)  # [B, HW, d]
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding.to(x.dtype)
        q, k, v = (
            projected.unflatten(-1, (self.num_heads, -1))  # [B, L, h, d/h]
            for projected in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x))
        )
        return self.c_proj(full_attention(q, k, v).flatten(-2)[:, 0])


class ModifiedResNet(nn.Module):
    """ResNet image tower: three-convolution stem, average pools instead of strides, attention pool at the end."""

    def __init__(self, layers: Sequence[int], output_dim: int, heads: int, input_resolution: int, width: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        self._inplanes = width
        self.layer1 = self._stage(width, layers[0])
        self.layer2 = self._stage(width * 2, layers[1], stride=2)
        self.layer3 = self._stage(width * 4, layers[2], stride=2)
        self.layer4 = self._stage(width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool2d(input_resolution // 32, width * 32, heads, output_dim)

    def _stage(self, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        stage = [Bottleneck(self._inplanes, planes, stride)]
        self._inplanes = planes * Bottleneck.expansion
        return nn.Sequential(*stage, *(Bottleneck(self._inplanes, planes) for _ in range(1, blocks)))

    def forward(self, images: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """images [B, 3, H, W] -> image features [B, e], not normalised. Takes no prompts."""
        if prompts:
            raise ValueError("a ResNet image tower takes no visual prompts: choose a ViT backbone")
        x = images.to(self.conv1.weight.dtype)
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(convolution(x)))
        x = self.avgpool(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.attnpool(x)


class CLIP(nn.Module):
    """Both towers and the temperature, with OpenAI's constructor, attribute and state-dict names."""

    def __init__(
        self,
        embed_dim: int,
        image_resolution: int,
        vision_layers: int | Sequence[int],
        vision_width: int,
        vision_patch_size: int | None,
        context_length: int,
        vocab_size: int,
        transformer_width: int,
        transformer_heads: int,
        transformer_layers: int,
        quick_gelu: bool = True,
        vision_heads: int | None = None,
        vision_mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        activation = QuickGELU if quick_gelu else nn.GELU
        self.context_length, self.vocab_size = context_length, vocab_size
        if isinstance(vision_layers, int):
            heads = vision_heads or vision_width // HEAD_WIDTH
            if vision_patch_size is None:
                raise ValueError("an image tower with a number of layers is a ViT, which needs vision_patch_size")
            self.visual = VisionTransformer(
                image_resolution,
                vision_patch_size,
                vision_width,
                vision_layers,
                heads,
                embed_dim,
                activation,
                vision_mlp_width,
            )
        else:
            heads = vision_heads or vision_width * 32 // HEAD_WIDTH
            self.visual = ModifiedResNet(vision_layers, embed_dim, heads, image_resolution, vision_width)
        self.transformer = Transformer(
            transformer_width, transformer_layers, transformer_heads, activation, context_length
        )
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, transformer_width))
        self.ln_final = LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.empty(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
        self.initialize_parameters()

    def build_attention_mask(self) -> Tensor:
        """Additive causal mask [L, L], as OpenAI's; the towers here mask inside their attention."""
        return causal_mask(self.context_length, self.positional_embedding)

    def initialize_parameters(self) -> None:
        """CLIP's initialisation for training from scratch (Radford et al. 2021, section 2.5)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.transformer.width**-0.5)
        towers = [self.transformer]
        if isinstance(self.visual, VisionTransformer):
            towers.append(self.visual.transformer)
        for tower in towers:
            for block in tower.blocks:
                nn.init.normal_(block.attn.in_proj_weight, std=tower.width**-0.5)
                nn.init.normal_(block.attn.out_proj.weight, std=tower.width**-0.5 * (2 * tower.layers) ** -0.5)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * tower.width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=tower.width**-0.5 * (2 * tower.layers) ** -0.5)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the towers."""
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """image [B, 3, H, W] -> image features [B, e], not normalised; `prompts` as in `VisionTransformer`."""
        return self.visual(image, prompts) if prompts else self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        """Token ids [N, L] -> text features [N, e], not normalised."""
        packed = PackedPrompts.from_tokens(text)
        return encode_prompts(self, packed, *packed.embed(self))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits per image [B, N] and per text [N, B]."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.t()
        return logits, logits.t()


def convert_weights(model: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Put the matrices of both towers into `dtype`; layer norms and embedding tables keep their precision."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
        if isinstance(module, nn.MultiheadAttention):
            module.in_proj_weight.data = module.in_proj_weight.data.to(dtype)
            module.in_proj_bias.data = module.in_proj_bias.data.to(dtype)
        for name in ("text_projection", "proj"):
            matrix = getattr(module, name, None)
            if isinstance(matrix, nn.Parameter):
                matrix.data = matrix.data.to(dtype)
