"""Where the state of each family of configs lies, held to golden files.

A change of placement is a change of memory and speed on a pod, so it should be seen in a diff:

    JAX_PLATFORMS=cpu python tests/test_placement.py      writes the files anew
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pytest  # noqa: E402
from test_configs import TOLD  # noqa: E402

from facejax import command_line, config, mesh, state  # noqa: E402
from facejax.config import MeshShape  # noqa: E402
from facejax.optim import flatten  # noqa: E402
from facejax.planning import inputs  # noqa: E402
from facejax.session import spec_of  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
# A masked and a contrastive objective together; a queue and a teacher; prototypes and a centre;
# decoders with teachers of their own; a prior and an optimiser rule; prototypes per class; class
# centres, convolutions and running statistics.
FAMILIES = {
    "quickstart": "quickstart",
    "moco": "moco_vit_faces",
    "dino": "dino_vit_faces",
    "fsfm": "fsfm_vit_faces",
    "adversarial_prior": "adversarial_prior_vit_faces",
    "attract_repel": "attract_repel_vit_faces",
    "adaface": "adaface_mobilefacenet_celeba",
}


def placements(name: str) -> dict[str, list]:
    """Path in the state -> axes, on 2 x 4 devices; blocks that are alike share a line."""
    path = ROOT / "configs" / f"{FAMILIES[name]}.py"
    run = config.resolve(command_line.load_file(str(path)))
    known = inputs.without_data(run, TOLD)
    run = inputs.with_steps(run, known)
    spec = spec_of(run, known.classes, known.attributes)
    grid = mesh.without_devices(MeshShape(2, 4), 8)
    placed = flatten(state.placement(state.plan(run, spec), grid))
    out: dict[str, list] = {}
    for leaf, sharding in placed.items():
        line = re.sub(r"blocks_\d+", "blocks_*", leaf)
        axes = [list(a) if isinstance(a, tuple) else a for a in sharding.spec]
        assert out.setdefault(line, axes) == axes, f"{leaf}: blocks differ"
    return dict(sorted(out.items()))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_state_lies_where_it_lay(name):
    golden = json.loads((GOLDEN / f"placement_{name}_2x4.json").read_text())
    found = placements(name)
    assert found == golden
    kernels = [line for line in golden if line.startswith("params/") and line.endswith("kernel")]
    spread = [line for line in kernels if "fsdp" in golden[line]]
    assert len(spread) > len(kernels) / 2
    # Moments and averages lie where their parameters do.
    for line in kernels:
        for other in golden:
            if other.endswith(line.removeprefix("params")) and other.startswith("opt/"):
                assert golden[other] == golden[line], other


if __name__ == "__main__":
    for family in FAMILIES:
        text = ",\n".join(
            f" {json.dumps(k)}: {json.dumps(v)}" for k, v in placements(family).items()
        )
        (GOLDEN / f"placement_{family}_2x4.json").write_text(f"{{\n{text}\n}}\n")
    print(f"wrote {len(FAMILIES)} files beneath {GOLDEN}")
