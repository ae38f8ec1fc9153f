"""Trained weights, exported by the command, on real faces: what each library itself makes of them.

Runs are short, on synthetic people; run with `-s` for the figures.
"""

import importlib.util
import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import trained_run

import facejax
from facejax import export
from facejax.export import names
from facejax.export._run import export_run
from facejax.export.names import mae as mae_tables

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.real_faces]

VIT = {"name": "vit", "width": 64, "depth": 3, "heads": 4, "mlp_ratio": 2.0, "patch": 8}
SMALL = {"blocks": (1, 1, 1, 1)}
RUNS = {
    "class": ({**VIT, "neck": "linear", "embed": 16}, 64),
    "all": (
        {
            **VIT,
            "pool": "attention",
            "class_token": True,
            "positions": "learned",
            "registers": 2,
            "layer_scale": 0.3,
            "neck": "linear",
            "embed": 16,
        },
        64,
    ),
    "scales": ({**VIT, "layer_scale": 0.3, "positions": "learned"}, 64),
    "mean": ({**VIT, "pool": "mean", "class_token": True, "registers": 2}, 64),
    "rope": ({**VIT, "positions": "rope", "registers": 4, "layer_scale": 0.3}, 64),
    "iresnet": ({"name": "iresnet", **SMALL, "widths": (8, 8, 16, 16)}, 112),
    "mobilefacenet": ({"name": "mobilefacenet", **SMALL, "width": 8, "hidden": 8, "head": 16}, 64),
    "face_vit": ({**VIT, "name": "face_vit", "embed": 32}, 64),
}
ROWS = {
    "class": ("timm", "transformers", "onnx", "stablehlo"),
    "all": ("timm", "onnx"),
    "scales": ("timm", "transformers"),
    "mean": ("timm", "transformers"),
    "rope": ("timm", "transformers", "onnx"),
    "iresnet": ("torch", "onnx", "insightface", "stablehlo"),
    "mobilefacenet": ("torch", "onnx"),
    "face_vit": ("torch", "onnx"),
}


def planes(pixels):
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def in_timm(out, pictures, pixels, modules):
    torch, timm = modules
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.no_grad():
        return model(torch.from_numpy(planes(pixels))).numpy()


def in_transformers(out, pictures, pixels, modules):
    torch, _ = modules
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(out).eval()
    pool = json.loads((out / "config.json").read_text())["facejax"]["config"]["pool"]
    with torch.no_grad():
        found = model(pixel_values=torch.from_numpy(planes(pixels)))
    if pool == "mean":
        return found.last_hidden_state[:, 1 + model.config.num_register_tokens :].mean(1).numpy()
    return found.pooler_output.numpy()


def in_onnx(out, pictures, pixels, modules):
    session = pytest.importorskip("onnxruntime").InferenceSession(out / "model.onnx")
    return session.run(["raw"], {"image": planes(pixels)})[0]


def in_insightface(out, pictures, pixels, modules):
    """The package prepares the pictures by itself, and takes BGR."""
    zoo = pytest.importorskip("insightface", exc_type=ImportError).model_zoo
    faces = zoo.get_model(str(out / "insightface.onnx"), providers=["CPUExecutionProvider"])
    return faces.get_feat([picture[:, :, ::-1] for picture in pictures])


def in_stablehlo(out, pictures, pixels, modules):
    program = jax.export.deserialize((out / "model.stablehlo").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    return np.asarray(program.call(load_file(out / "model.safetensors"), pixels)["raw"])


def in_torch(out, pictures, pixels, modules):
    torch, _ = modules
    spec = importlib.util.spec_from_file_location("nets", out / "torch_nets.py")
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    facts = json.loads((out / "config.json").read_text())
    net = getattr(nets, facts["net"])(**facts["options"]).eval()
    tensors = load_file(out / "model.safetensors")
    net.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=False)
    with torch.no_grad():
        return net(torch.from_numpy(planes(pixels))).numpy()


def trained(tmp_path, encoder, size, objective="arcface"):
    source = {"name": "synthetic", "n": 32, "identities": 8, "size": size}
    return trained_run(
        tmp_path / "run",
        **{"steps": 10, "checkpoint": {"every_steps": 10}, "encoder": encoder},
        objective=objective,
        data={"size": size, "sources": (source,), "mean": (0.5, 0.45, 0.4), "align": "arcface112"},
    )


def told(name, library, found):
    print(f"\n{name} | {library} | {found['max_rel']:.1e} | {1 - found['min_cosine']:.0e}")
    assert found["min_cosine"] >= 0.99999
    assert found["max_rel"] <= 1e-4


@pytest.mark.parametrize("name", RUNS)
def test_each_library_says_the_same(name, tmp_path, faces, torch_and_timm):
    encoder, size = RUNS[name]
    workdir = trained(tmp_path, encoder, size)
    model, pictures = facejax.load(workdir), faces(size, 32)
    flat = names.flatten(model.params)
    assert all(np.any(v) for k, v in flat.items() if re.search("bias$", k)), "they began at zero"
    ours, pixels = model.embed(pictures), export.normalise(pictures, model.preprocess)
    for library in ROWS[name]:
        form = "onnx" if library == "insightface" else library
        out = tmp_path / form
        if not out.exists():
            export_run(workdir, None, form, out)
        theirs = globals()[f"in_{library}"](out, pictures, pixels, torch_and_timm)
        told(name, library, export.agreement(ours, theirs))
        back = facejax.load(out)
        assert back.preprocess == model.preprocess
        for mine, again in ((model.params, back.params), (model.stats, back.stats)):
            mine = {k: v for k, v in mine.items() if k != "mask_token"}
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(mine), again)


def test_mae_says_the_same_with_nothing_masked(tmp_path, faces, torch_and_timm):
    torch, timm = torch_and_timm
    transformers = pytest.importorskip("transformers")
    workdir = trained(tmp_path, {**VIT, "patch": 16}, 64, "mae")
    model, pictures = facejax.load(workdir), faces(64, 32)
    own = facejax.checkpoint.Checkpoints(workdir).read(10, ("params",))["params"]
    params = {"encoder": model.params, "mae": own["objective"]["mae"]}
    cfg, width, depth = model.encoder_config, 512, 8
    pixels = torch.from_numpy(planes(export.normalise(pictures, model.preprocess)))
    ours = model.embed(pictures)

    tensors = names.export_tensors(mae_tables.official(cfg, width, depth), params)
    inside = {k: torch.from_numpy(v) for k, v in tensors.items() if "decoder" not in k}
    inside.pop("mask_token")
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 4}
    net = timm.models.vision_transformer.VisionTransformer(
        **sizes, mlp_ratio=2.0, num_classes=0, global_pool="token"
    )
    net.load_state_dict(inside, strict=True)
    with torch.no_grad():
        told("mae", "official", export.agreement(ours, net.eval()(pixels).numpy()))

    tensors = names.export_tensors(mae_tables.transformers(cfg, width, depth), params)
    named = {
        k.removeprefix("vit."): torch.from_numpy(v)
        for k, v in tensors.items()
        if k.startswith("vit.")
    }
    config = transformers.ViTMAEConfig(
        **{"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
        **{"intermediate_size": 128, "image_size": 64, "patch_size": 16, "layer_norm_eps": 1e-6},
        mask_ratio=0.0,
    )
    net = transformers.ViTMAEModel.from_pretrained(None, config=config, state_dict=named).eval()
    with torch.no_grad():
        theirs = net(pixels, noise=torch.arange(16.0)[None].repeat(32, 1)).last_hidden_state[:, 0]
    told("mae", "transformers", export.agreement(ours, theirs.numpy()))
