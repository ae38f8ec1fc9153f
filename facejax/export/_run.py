"""From a run's working directory to an export."""

import shutil
from pathlib import Path

from facejax import export, lora, model, plugins


def export_run(
    workdir: Path, step: int | None, form: str, out: Path, *, replace: bool = False
) -> None:
    """Writes the encoder of a run in the format `form`.

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
    module.write(t.encoder_config, params, t.stats, t.preprocess, out, t.meta)
