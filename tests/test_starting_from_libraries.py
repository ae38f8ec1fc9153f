"""starting.py: models of timm and transformers, saved by these, go on here as what they were."""

import jax
import numpy as np
import pytest
import support

from facejax import export, starting, state
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import names
from facejax.export._timm import import_timm
from facejax.export.names import mae as mae_tables

pytestmark = pytest.mark.torch

SIZE = 16
IMAGES = np.random.default_rng(1).normal(size=(3, SIZE, SIZE, 3)).astype(np.float32)
OPTIONS = {"name": "vit", "width": 32, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "patch": 4}


@pytest.fixture(scope="module")
def torch_and_timm():
    try:
        return import_timm()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.fixture(scope="module")
def transformers(torch_and_timm):
    return pytest.importorskip("transformers")


def shaken(torch, model):
    """The model with every parameter off its initial value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


def ours(source, **options):
    """The tokens of the class and the patches f32[3, 17, 32] after a start from the source."""
    encoder = {**OPTIONS, "positions": "learned", **options}
    run = support.resolve({"simclr": {}}, encoder=encoder, init_from=str(source))
    shapes = state.shapes(support.program_of(run))
    wanted = starting.flatten({name: getattr(shapes, name) for name in starting.ITEMS})
    cfg = run.towers["encoder"].config
    taken, report = starting.match(wanted, starting.read(run), cfg)
    assert report.adapted == []
    top = "params/encoder/"
    params = {k.removeprefix(top): v for k, v in taken.items() if k.startswith(top)}
    wanted_outputs = ("prefix", "tokens")
    features, _ = jax.jit(lambda p, x: vit.apply(cfg, p, {}, {"image": x}, outputs=wanted_outputs))(
        names.unflatten(params), IMAGES
    )
    return np.concatenate([features.prefix[:, :1], features.tokens], axis=1)


def assert_same(found, theirs):
    agreed = export.agreement(found.reshape(-1, 32), theirs.reshape(-1, 32))
    assert agreed["max_rel"] <= 1e-4
    assert agreed["min_cosine"] >= 0.99999


def planes(torch):
    return torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("name", ["dinov2", "dinov2 with registers", "deit"])
def test_timm(name, tmp_path, torch_and_timm):
    """Geometry of timm's `vit_*_dinov2`, `vit_*_reg4_dinov2` and `deit_*`, made small."""
    torch, timm = torch_and_timm
    more = {
        "dinov2": {"init_values": 1e-5},
        "dinov2 with registers": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
        "deit": {"num_classes": 7},
    }[name]
    model = timm.models.vision_transformer.VisionTransformer(
        **{"img_size": SIZE, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
        **{"mlp_ratio": 2.0, "num_classes": 0, **more},
    )
    model = shaken(torch, model)
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    registers = more.get("reg_tokens", 0)
    scale = 1.0 if "init_values" in more else None
    found = ours(tmp_path / "w.pth", registers=registers, layer_scale=scale)
    with torch.no_grad():
        tokens = model.forward_features(planes(torch)).numpy()
    assert_same(found, np.delete(tokens, range(1, 1 + registers), axis=1))


@pytest.mark.parametrize("bias", [True, False])
def test_dinov3_of_timm(bias, tmp_path, torch_and_timm):
    torch, timm = torch_and_timm
    sizes = {"img_size": SIZE, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    name = "vit_small_patch16_dinov3"
    model = timm.create_model(name, mlp_ratio=2.0, num_classes=0, qkv_bias=bias, **sizes)
    model = shaken(torch, model)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    options = {"positions": "rope", "registers": 4, "layer_scale": 1.0, "qkv_bias": bias}
    found = ours(tmp_path / "w.pth", **options)
    with torch.no_grad():
        tokens = model.forward_features(planes(torch)).numpy()
    assert_same(found, np.delete(tokens, range(1, 5), axis=1))


def test_dinov3_of_transformers(tmp_path, torch_and_timm, transformers):
    torch, _ = torch_and_timm
    config = transformers.DINOv3ViTConfig(
        **{"image_size": SIZE, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "intermediate_size": 64, "num_register_tokens": 3},
    )
    model = shaken(torch, transformers.DINOv3ViTModel(config))
    options = {"positions": "rope", "registers": 3, "layer_scale": 1.0}
    with torch.no_grad():
        tokens = np.delete(model(planes(torch)).last_hidden_state.numpy(), [1, 2, 3], axis=1)
    torch.save(model.state_dict(), tmp_path / "w.pt")  # the names in memory
    assert_same(ours(tmp_path / "w.pt", **options), tokens)
    model.save_pretrained(tmp_path / "folder")
    assert_same(ours(tmp_path / "folder", **options), tokens)
    with pytest.raises(UserError, match="it is a 'dinov3_vit', not vit or"):
        ours(tmp_path / "folder")
    message = "positions: made for 'rope', config.encoder.positions is 'learned'"
    with pytest.raises(UserError, match=message):
        ours(tmp_path / "w.pt", registers=3, layer_scale=1.0)
    config.rope_theta = 10.0
    config.save_pretrained(tmp_path / "folder")
    with pytest.raises(UserError, match=r"its rotary base is 10\.0, ours is 100\.0"):
        ours(tmp_path / "folder", **options)


@pytest.mark.parametrize("name", ["ViT", "Dinov2", "Dinov2WithRegisters"])
def test_transformers(name, tmp_path, torch_and_timm, transformers):
    torch, _ = torch_and_timm
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 64} if name == "ViT" else {"mlp_ratio": 2}
    config = getattr(transformers, f"{name}Config")(
        image_size=SIZE, patch_size=4, layer_norm_eps=1e-6, **size, **more
    )
    model = shaken(torch, getattr(transformers, f"{name}Model")(config))
    model.save_pretrained(tmp_path / "folder")
    registers = 4 if name == "Dinov2WithRegisters" else 0
    scale = None if name == "ViT" else 1.0
    found = ours(tmp_path / "folder", registers=registers, layer_scale=scale)
    with torch.no_grad():
        tokens = model(planes(torch)).last_hidden_state.numpy()
    assert_same(found, np.delete(tokens, range(1, 1 + registers), axis=1))


def test_mae_has_the_modules_of_its_repository(torch_and_timm):
    """The official model in its modules, which are timm's: the table's names load strictly."""
    torch, timm = torch_and_timm
    from test_starting import MAE, drawn

    from facejax.objectives import mae

    cfg = vit.Config(**{k: v for k, v in OPTIONS.items() if k != "name"}, size=SIZE)
    nn, block = torch.nn, timm.models.vision_transformer.Block

    class Official(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = timm.layers.PatchEmbed(SIZE, 4, 3, 32)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 32))
            self.pos_embed = nn.Parameter(torch.zeros(1, 17, 32), requires_grad=False)
            self.blocks = nn.ModuleList(block(32, 2, 2.0, qkv_bias=True) for _ in range(2))
            self.norm = nn.LayerNorm(32)
            self.decoder_embed = nn.Linear(32, 16)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, 16))
            self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 17, 16), requires_grad=False)
            self.decoder_blocks = nn.ModuleList([block(16, 2, 4.0, qkv_bias=True)])
            self.decoder_norm = nn.LayerNorm(16)
            self.decoder_pred = nn.Linear(16, 48)

    spec = support.program_of(support.resolve(MAE, encoder=OPTIONS)).spec
    own = mae.init(mae.Config(**MAE["mae"]), jax.random.key(1), spec).params
    params = {"encoder": drawn(cfg), "mae": jax.tree.map(np.asarray, own)}
    tensors = names.export_tensors(mae_tables.official(cfg, 16, 1), params)
    model = Official()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=True)
