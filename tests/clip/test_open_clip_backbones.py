"""Backbones out of open_clip's registry: `open_clip:MODEL/TAG` and `open_clip:MODEL//file`.

Expected values: open_clip_torch's own forward pass of small models of random weights, which are entered into its
registry as JSON files and saved as it saves checkpoints. Sizes of published models: its model_configs.
"""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from open_clip.model import CLIP as OpenClip
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

from clip import clip
from clip.backbones import checkpoint as weights
from clip.backbones import open_clip as open_clip_models
from dassl.utils import UserError
from trainers.core.method import load_clip
from trainers.core.precision import Precision

LIMIT = 1e-5
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 2}  # 32 channels a head
VIT = {"layers": 2, "width": 80, "head_width": 40, "patch_size": 16, "image_size": 48}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64, "patch_size": None}
MODELS = {
    "small-vit": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT},
    "small-vit-quickgelu": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "small-wide-mlp": {"embed_dim": 48, "vision_cfg": VIT | {"mlp_ratio": 4.3637}, "text_cfg": TEXT},
    "small-resnet": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": RESNET, "text_cfg": TEXT},
    "small-custom": {"embed_dim": 48, "custom_text": True, "vision_cfg": VIT, "text_cfg": TEXT},
}


@pytest.fixture(scope="module", autouse=True)
def registry(tmp_path_factory):
    """The small models are entered, and taken out again."""
    folder = tmp_path_factory.mktemp("model_configs")
    for name, configuration in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(configuration))
    paths, configs = list(open_clip.factory._MODEL_CONFIG_PATHS), dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS[:] = paths
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(configs)


def reference_model(name):
    """open_clip's model with random weights as after training: nothing at its start value."""
    configuration = dict(MODELS[name])
    kind = CustomTextCLIP if configuration.pop("custom_text", False) else OpenClip
    torch.manual_seed(0)
    model = kind(**configuration).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor += 0.2 * torch.randn_like(tensor).abs() if "running_var" in key else 0.2 * torch.randn_like(tensor)
    return model


def save_checkpoint(model, path):
    """As open_clip's training script does, or as its releases on the hub are."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    else:
        state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)
    return path


@torch.no_grad()
def assert_equal(ours, reference):
    size = ours.visual.input_resolution
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    tokens = clip.tokenize(["a photo of a cat.", "", "X X X X Highway or Road."])
    for found, expected in (
        (ours.encode_image(images), reference.encode_image(images)),
        (ours.encode_text(tokens), reference.encode_text(tokens)),
    ):
        assert expected.std() > 0.1
        assert (found - expected).abs().max() < LIMIT
    assert torch.equal(ours.logit_scale, reference.logit_scale)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_open_clip(name, suffix, tmp_path):
    reference = reference_model(name)
    path = save_checkpoint(reference, tmp_path / f"weights.{suffix}")
    model, pixels = clip.load_backbone(f"open_clip:{name}/{path}")
    assert_equal(model, reference)
    assert pixels.mean == open_clip.OPENAI_DATASET_MEAN
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_gelu_and_quick_gelu_are_kept_apart(tmp_path):
    """The same weights under both names give different features, each as open_clip has them."""
    path = save_checkpoint(reference_model("small-vit"), tmp_path / "weights.pt")
    images = torch.randn(2, 3, 48, 48)
    plain, quick = (
        clip.load_backbone(f"open_clip:{name}/{path}").model.encode_image(images)
        for name in ("small-vit", "small-vit-quickgelu")
    )
    assert (plain - quick).abs().max() > 100 * LIMIT


def register_tag(monkeypatch, path, **settings):
    """The tag `ours` of small-vit, whose download has happened already."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-vit", {"ours": {"file": str(path), **settings}})
    return "open_clip:small-vit/ours"


def test_a_tag_says_how_its_weights_were_trained(tmp_path, monkeypatch):
    """Tags such as ViT-B-32/openai belong to a GELU architecture but were trained with quick GELU."""
    reference = reference_model("small-vit-quickgelu")
    path = save_checkpoint(reference, tmp_path / "weights.pt")
    half = (0.5, 0.5, 0.5)
    name = register_tag(monkeypatch, path, quick_gelu=True, mean=half, std=half, interpolation="bicubic")
    assert clip.checkpoint_file_of(name) == str(path)
    model, pixels = clip.load_backbone(name)
    assert_equal(model, reference)
    assert pixels == (half, half, "bicubic")
    _, transform = clip.load(name, device="cpu")
    assert "mean=(0.5, 0.5, 0.5)" in repr(transform) and "size=48" in repr(transform)


def test_a_trainer_asks_for_the_images_that_the_backbone_wants(tmp_path, monkeypatch):
    from dassl.config import get_cfg_default

    half = (0.5, 0.5, 0.5)
    name = register_tag(monkeypatch, save_checkpoint(reference_model("small-vit"), tmp_path / "w.pt"), mean=half)
    cfg = get_cfg_default()
    cfg.MODEL.BACKBONE.NAME, cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = name, (48, 48), "bicubic"
    cfg.INPUT.PIXEL_STD = list(open_clip.OPENAI_DATASET_STD)
    precision = Precision("fp32", torch.device("cpu"))
    with pytest.raises(UserError, match=r'set INPUT.PIXEL_MEAN "\[0.5, 0.5, 0.5\]"'):
        load_clip(cfg, precision)
    cfg.merge_from_list(["INPUT.PIXEL_MEAN", "[0.5, 0.5, 0.5]"])
    assert load_clip(cfg, precision).visual.input_resolution == 48


def test_a_download_that_fails_is_said_in_one_line(monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("no\nroute to host")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(UserError, match="ViT-B-32/laion2b_s34b_b79k.*no route to host") as error:
        clip.checkpoint_file_of("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-16-SigLIP/webli", "init_logit_bias"),
        ("coca_ViT-B-32/laion2b_s13b_b90k", "multimodal_cfg"),
        ("convnext_base/laion400m_s13b_b51k", "timm_model_name"),
        ("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "hf_model_name"),
        ("ViT-L-14-CLIPA/datacomp1b", "no_ln_pre"),
        ("ViT-B-33/openai", "has no model 'ViT-B-33'"),
        ("hf-hub:someone/model", "has no model"),
        ("ViT-B-32/nothing", "laion2b_s34b_b79k"),
        ("ViT-B-32//no/such/file.pt", "/no/such/file.pt"),
        ("ViT-B-32", "MODEL/TAG"),
        ("/tag", "MODEL/TAG"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_download(name, says, monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *a, **k: pytest.fail("downloaded"))
    with pytest.raises(UserError) as error:
        clip.load_backbone(f"open_clip:{name}")
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("saved", "asked", "says"),
    [
        ("small-vit", "ViT-B-32", "width"),
        ("small-resnet", "small-vit", "ResNet"),
        ("small-vit", "small-resnet", "ViT"),
    ],
)
def test_weights_of_another_model_are_refused(saved, asked, says, tmp_path):
    path = save_checkpoint(reference_model(saved), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=says) as error:
        clip.load_backbone(f"open_clip:{asked}/{path}")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_pickle_is_not_loaded(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    torch.save({"state_dict": Hostile()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="weights.pt"):
        clip.load_backbone(f"open_clip:small-vit/{tmp_path / 'weights.pt'}")


def fitting_models():
    with_weights = {model for model, _ in open_clip.list_pretrained()}
    return [
        name
        for name in sorted(with_weights)
        if not open_clip_models._difference_from_openai(open_clip.get_model_config(name))
    ]


def test_the_published_models_that_fit():
    assert set(fitting_models()) >= {"RN50", "ViT-B-32", "ViT-B-16-plus-240", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"}


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-B-16-plus-240", "RN50x4"])
def test_published_sizes_are_read_from_the_tensors(name):
    """Heads and sizes of big models, whose tensors are shapes without values."""
    configuration = open_clip.get_model_config(name)
    with torch.device("meta"):
        reference = OpenClip(**configuration)
    heads = open_clip_models._heads(configuration)
    model = weights.clip_from_state_dict(reference.state_dict(), False, name, heads)
    open_clip_models._check_is_the_model(model, configuration, name)
    assert model.transformer.resblocks[0].heads == reference.transformer.resblocks[0].attn.num_heads
    if name.startswith("ViT"):
        assert model.visual.transformer.resblocks[0].heads == reference.visual.transformer.resblocks[0].attn.num_heads
    else:
        assert model.visual.attnpool.num_heads == reference.visual.attnpool.num_heads
    if name.startswith("ViT-L"):  # as OpenAI's files, of which nothing but the tensors is known
        assert weights._architecture(reference.state_dict()) == weights._architecture(reference.state_dict(), heads)
