"""The command that trains, and its loop.

    python -m facejax.train --config=FILE[:args] --workdir=DIR [--config.a.b=value ...]

The same command again resumes from the newest checkpoint; a finished run says so. Everything that
can be wrong with the input is found before the first compilation.
"""

import errno
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from facejax import cli, command_line, config, evaluate, mesh, model, processes, report, state
from facejax.books import Books
from facejax.data import pipeline, workers
from facejax.data.reading import Reading
from facejax.errors import TrainingFailed
from facejax.export._run import export_run
from facejax.metrics import Writer, read_jsonl, save_preview
from facejax.preview import previews
from facejax.profiling import Profile
from facejax.session import Session, prepare, starting_state, write_config
from facejax.step import jitted
from facejax.watchdog import Watchdog

PREEMPTED = 75
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


def train(session: Session) -> int:
    """Trains to the end; returns the exit status."""
    run, reading = session.run, Reading()
    explain = functools.partial(_explain, reading)
    dog = Watchdog(run.hang_seconds, session.workdir, jax.process_index(), explain)
    with dog, _failures(session):
        current, start = starting_state(session)
        if start >= run.steps and _finished(session).exists():
            print(f"{session.workdir} is finished: {run.steps} steps")
            return 0
        if session.primary:
            write_config(session)
        writer = Writer(session.workdir, start, write=session.primary)
        _warn(session, current)
        current = _steps(session, writer, current, start, dog, reading)
        if current is None:
            return PREEMPTED
        with dog.phase("evaluating"):
            finish(session, writer, current)
        writer.close()
    return 0


def _steps(session: Session, writer: Writer, current: state.TrainState, start, dog, reading):
    """Runs steps `start` to the end; None when asked to stop (everything is then saved)."""
    run = session.run
    step_fn = jitted(session.program, session.mesh)
    books = Books(session, writer, start)
    batches = iter(read_batches(session, start, reading))
    missed = [e for e in due_evaluations(session, start) if not _evaluated(session, e.label, start)]
    if missed:  # killed between the checkpoint and its evaluation
        with dog.phase("evaluating"):
            evaluate_state(session, writer, current, start, missed)
    profile = Profile(run.profile, session.workdir / "profile")
    with books.progress, profile:
        for step in range(start + 1, run.steps + 1):
            with dog.phase("waiting for input"), books.timer.waiting():
                host = next(batches)
                batch = mesh.to_global(session.mesh, run.global_batch, host.arrays)
            if step == start + 1:
                with dog.phase("compiling"), books.timer.paused():
                    current, metrics = step_fn(current, batch, session.frozen, session.constants)
            else:
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    current, metrics = step_fn(current, batch, session.frozen, session.constants)
            session.checkpoints.poll()
            books.enter(step, metrics, host)
            if profile.bounds(step):
                jax.block_until_ready(metrics)
                with dog.phase("tracing"), books.timer.paused():
                    profile.turn()
            stopping = processes.preempted(step) and step < run.steps
            saving = step % run.checkpoint.every_steps == 0 or step == run.steps or stopping
            if step % run.log_every == 0 or saving:
                books.log(step)
            if saving:
                with dog.phase("saving"), books.timer.paused():
                    session.checkpoints.save(step, current)
                    _save_previews(session, current, batch, step)
            evaluating = due_evaluations(session, step)
            if evaluating:
                with dog.phase("evaluating"), books.timer.paused():
                    evaluate_state(session, writer, current, step, evaluating)
            if stopping:
                with dog.phase("saving"):
                    session.checkpoints.close()
                writer.close()
                print(f"stopped at step {step}, everything saved; the same command resumes")
                return None
    with dog.phase("saving"):
        session.checkpoints.wait()
    return current


def _explain(reading: Reading, phase: str) -> str:
    if phase == "waiting for input":
        return reading.describe()
    if phase == "running a step" and jax.process_count() > 1:
        return "a device or another process does not answer"
    return ""


@contextmanager
def _failures(session: Session):
    """Failures of the machine as what they mean to a person.

    Raises:
        TrainingFailed: storage, device memory, or a process that has gone.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in STORAGE:
            raise
        where = str(e.filename or session.workdir)
        remedy = "free space or mend the storage, then run the same command to resume"
        raise TrainingFailed(where, e.strerror, remedy) from e
    except jax.errors.JaxRuntimeError as e:
        reason = str(e).strip().splitlines()[0][:300]
        if "RESOURCE_EXHAUSTED" in reason:
            remedy = "lower config.micro_batch, set config.remat or raise config.mesh.fsdp"
            raise TrainingFailed("device memory", reason, remedy) from e
        if jax.process_count() == 1:
            raise
        where = f"process {jax.process_index()}"
        remedy = "look at the first process that failed, then start all of them again to resume"
        raise TrainingFailed(where, f"lost its peers ({reason})", remedy) from e


def read_batches(session: Session, start: int, reading: Reading) -> Iterator[pipeline.HostBatch]:
    """Batches for the steps after `start`; batch n depends on (seed, n) alone."""
    run = session.run
    data, rows = run.data, mesh.local_rows(session.mesh, run.global_batch)
    fields = session.program.fields()
    wanted = pipeline.BatchSpec(data.size, run.global_batch, rows, fields, session.texts)
    ahead = {"start": start, "steps": run.steps, "reading": reading}
    if data.processes:
        order = (run.seed, data.sampler, data.group, session.blocked)
        recipe = workers.Recipe(workers.plain(data.sources), wanted, *order)
        return workers.batches(recipe, session.mixture, processes=data.processes, **ahead)
    threads = {"workers": data.workers, "cache": data.cache}
    return pipeline.batches(session.mixture, session.order, wanted, **threads, **ahead)


def _evaluated(session: Session, label: str, step: int) -> bool:
    rows = read_jsonl(session.workdir / "metrics.jsonl")
    return any(k.startswith(f"eval/{label}/") for row in rows if row["step"] == step for k in row)


def due_evaluations(session: Session, step: int) -> list[evaluate.Evaluation]:
    """The evaluations scheduled for this step; the end of the run is `finish`'s."""
    return [
        e
        for e in session.evaluations
        if e.entry.every_steps and step % e.entry.every_steps == 0 and 0 < step < session.run.steps
    ]


def evaluate_state(session, writer, current, step, evaluations) -> dict[str, float]:
    """Evaluates the encoder of a state."""
    trained = model.of_state(
        session.run,
        current.params,
        current.stats,
        devices=session.mesh,
        read=session.texts and session.texts.tokenizer,
        step=step,
    )
    return evaluate.evaluate(evaluations, trained, step, writer, session.workdir)


def _save_previews(session: Session, current, batch, step: int) -> None:
    for label, (columns, images) in previews(
        session.program, current, batch, session.frozen, session.constants
    ).items():
        if session.primary:
            save_preview(session.workdir, label, step, images, columns)


def finish(session: Session, writer: Writer, current: state.TrainState) -> None:
    """The end of a run: the last evaluation, exports and the report."""
    run, workdir = session.run, session.workdir
    numbers = evaluate_state(session, writer, current, run.steps, session.evaluations)
    if numbers and session.primary:
        evaluate.show(numbers)
    session.checkpoints.close()
    writer.flush()
    if not session.primary:
        return
    for form in run.export:
        export_run(workdir, run.steps, form, workdir / "export" / form, replace=True)
        print(f"exported {form}: {workdir / 'export' / form}")
    if run.report:
        print(f"report: {report.write_report([workdir], workdir / 'report.html')}")
    _finished(session).parent.mkdir(exist_ok=True)
    _finished(session).touch()
    print(f"finished: {run.steps} steps, {workdir}")


def _finished(session: Session) -> Path:
    return session.workdir / "artifacts" / f"finished-{session.run.steps}"


def _warn(session: Session, current: state.TrainState) -> None:
    run = session.run
    if session.primary and session.order.notes:
        print(*session.order.notes, sep="\n", file=sys.stderr)
    if run.micro_batch not in (None, run.global_batch) and jax.tree.leaves(current.stats):
        print(
            "warning: config.micro_batch: BatchNorm sees one micro-batch at a time, so this is not "
            "the one-shot gradient",
            file=sys.stderr,
        )


def run(argv: list[str]) -> int:
    """The command."""
    parser = cli.Parser(prog="python -m facejax.train", description=__doc__)
    parser.add_argument("--config", required=True, help="FILE or FILE:args")
    parser.add_argument("--workdir", required=True, type=Path)
    args, overrides = parser.parse_known(argv, "config")
    values = command_line.load_file(args.config).to_dict()
    assignments = [f"--config.{key}={value}" for key, value in overrides.items()]
    resolved = config.resolve(command_line.override(values, assignments, "config"))
    processes.start()
    args.workdir.mkdir(parents=True, exist_ok=True)
    return train(prepare(resolved, args.workdir))


if __name__ == "__main__":
    cli.main(run, processes.leave)
