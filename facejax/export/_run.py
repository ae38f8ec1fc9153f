"""From a run's working directory to an export."""

import dataclasses
import shutil
from pathlib import Path

from facejax import export, lora, model, plugins


def export_run(
    workdir: Path, step: int | None, form: str, out: Path, *, replace: bool = False
) -> None:
    """Writes the encoder of a run in the format `form`, with its text tower where that has one.

    Args:
        step: of the checkpoint; None is the newest.
        replace: an export that stands at `out` gives way.

    Raises:
        UserError: no such format, `out` is not empty, no such checkpoint, or the format has no
            such encoder.
    """
    module = plugins.load("export", form, "--format")
    if replace:
        shutil.rmtree(out, ignore_errors=True)
    export.check_out(out)
    t = model.load_run(workdir, step)
    params = t.params
    if isinstance(t.module, lora.Adapted):
        params = lora.merge(t.module.lora, params)
    if t.space is not None and hasattr(module, "write_joint"):
        module.write_joint(dataclasses.replace(t, params=params), out)
    else:
        module.write(t.encoder_config, params, t.stats, t.preprocess, out, t.meta)
