"""From the flags to the text, the JSON and the page that they ask for."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
import time
from pathlib import Path

import jax.numpy as jnp

from bwsk_jax import Plan, Report, bert
from bwsk_jax.inspection.differences import explanation
from bwsk_jax.inspection.document import document
from bwsk_jax.inspection.meetings import meetings_of_training
from bwsk_jax.inspection.options import Options
from bwsk_jax.inspection.page import page
from bwsk_jax.inspection.subject import Subject, SubjectError, subject_of_bert, subject_of_function
from bwsk_jax.inspection.text import ansi, difference_text, plain, plan_text, report_text
from bwsk_jax.meshes import MeshError, parse_mesh
from bwsk_jax.training.flags import DTYPES
from bwsk_jax.training.recipe import Recipe, recipe_of
from bwsk_jax.writing import check_writable

__all__ = ["show"]

FOR_BERT = ("precision", "batch_size", "seq_len")
FOR_FUNCTION = ("args", "wrt")
LIMITS = ("max_overhead", "max_bytes")


def show(options: Options) -> None:
    """Print what the options ask for, and write the files that they name.

    Raises:
        SubjectError: the flags contradict each other, or the function cannot be looked at.
        PlanError: no plan keeps to the limit.
        BertConfigError, CheckpointError, BertInputError: the model cannot be looked at.
        OSError: a file cannot be read.
    """
    _check(options)
    if options.mesh is not None:
        return _show_meetings(options, options.mesh)
    subject = _subject(options)
    planned = options.plan or options.diff
    strict, reference = (subject.classify(taxonomy=taxonomy) for taxonomy in ("strict", "reference"))
    limits = {name: getattr(options, name) for name in LIMITS}
    plan = subject.plan(**limits) if planned or options.html is not None else None
    if options.json != "-":
        print(_text(options, subject, strict, reference, plan), flush=True)
    files = {}
    if options.json is not None:
        shown = plan if planned else None
        found = document(subject.name, subject.unit, strict, reference, shown, diff=options.diff)
        files[options.json] = json.dumps(found, allow_nan=False) + "\n"
    if plan is not None and options.html is not None:
        frontiers = _frontiers(subject)
        files[options.html] = page(subject.name, subject.unit, strict, reference, plan, *frontiers)
    for path, text in files.items():
        _write(path, text)


def _check(options: Options) -> None:
    flag = lambda name: f"--{name.replace('_', '-')}"
    given = lambda *names: [name for name in names if getattr(options, name) is not None]
    subjects = given("preset", "model", "function")
    if len(subjects) != 1:
        raise SubjectError("give one of --preset, --model and --function")
    for name in given(*(FOR_FUNCTION if options.function is None else FOR_BERT)):
        raise SubjectError(f"{flag(name)} does not go with {flag(subjects[0])}")
    _check_calm(options)
    if len(given(*LIMITS)) == 2:
        raise SubjectError("--max-overhead and --max-bytes are both given: give at most one limit")
    for name in given(*LIMITS):
        if not (options.plan or options.diff or options.html):
            raise SubjectError(f"{flag(name)} limits a plan: give --plan, --diff or --html too")
        if math.isnan(getattr(options, name)) or getattr(options, name) < 0:
            raise SubjectError(f"{flag(name)} {getattr(options, name)} must not be negative")
    _check_files(options)
    for name in given("batch_size", "seq_len"):
        if getattr(options, name) <= 0:
            raise SubjectError(f"{flag(name)} {getattr(options, name)} must be positive")


def _check_calm(options: Options) -> None:
    if options.calm != (options.mesh is not None):
        raise SubjectError("--calm and --mesh go together: give both, like --calm --mesh data=4,model=2")
    if not options.calm:
        return
    others = {"--function": options.function, "--html": options.html, "--plan": options.plan}
    for flag, value in (others | {"--diff": options.diff, "--unfold": options.unfold}).items():
        if value:
            raise SubjectError(f"--calm does not go with {flag}")
    try:
        parse_mesh(options.mesh or "")
    except MeshError as fault:
        raise SubjectError(f"--mesh {options.mesh} is no mesh: {fault}") from None


def _check_files(options: Options) -> None:
    if options.html == "-":
        raise SubjectError("--html -: the page has to go to a file")
    files = {"--json": options.json, "--html": options.html}
    paths = {flag: Path(name) for flag, name in files.items() if name not in (None, "-")}
    for flag, path in paths.items():
        _check_writable(flag, path)
    if len(paths) == 2 and len({os.path.realpath(path) for path in paths.values()}) == 1:
        raise SubjectError(f"--json and --html both go to {options.html}")


def _check_writable(flag: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise SubjectError(f"{flag} {path}: its folder does not exist")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            check_writable(path.parent)
    except OSError as error:
        raise SubjectError(f"{flag} {path} cannot be written: {error.strerror}") from error


def _subject(options: Options) -> Subject:
    if options.function is not None:
        return subject_of_function(options.function, options.args or "", options.wrt)
    name, config, recipe = _bert(options)
    dtype = getattr(jnp, DTYPES[options.precision or "float32"])
    return subject_of_bert(name, config, recipe.batch_size, recipe.seq_len, dtype)


def _bert(options: Options) -> tuple[str, bert.BertConfig, Recipe]:
    """Return the name and the configuration of the BERT, and how it is trained."""
    if options.model is not None:
        name, config, recipe = options.model, bert.load_config(options.model), Recipe()
    elif options.preset in bert.PRESETS:
        name, recipe = f"bert-{options.preset}", recipe_of(options.preset, "scratch")
        rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), recipe.dropout)
        config = dataclasses.replace(bert.PRESETS[options.preset], **rates)
    else:
        raise SubjectError(f"--preset {options.preset} is none of {', '.join(bert.PRESETS)}")
    batch_size = options.batch_size or recipe.batch_size
    seq_len = options.seq_len or min(recipe.seq_len, config.longest_input)
    return name, config, dataclasses.replace(recipe, batch_size=batch_size, seq_len=seq_len)


def _show_meetings(options: Options, mesh: str) -> None:
    name, config, recipe = _bert(options)
    report = meetings_of_training(config, recipe, mesh, options.precision or "float32")
    sizes = f"{recipe.grad_accum} x {recipe.batch_size} x {recipe.seq_len} tokens"
    if options.json != "-":
        print(f"{name} in training: a step of {sizes}\n\n{report}", flush=True)
    if options.json is not None:
        _write(options.json, report.to_json() + "\n")


def _text(options: Options, subject: Subject, strict: Report, reference: Report, plan: Plan | None) -> str:
    paint = ansi if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else plain
    parts = [
        subject.name,
        report_text(strict, reference, unfold=options.unfold, paint=paint),
        strict.summary(),
        reference.summary(),
        explanation(strict, reference),
        plan_text(plan, subject.unit, paint) if plan is not None and options.plan else "",
        difference_text(plan, subject.unit, paint) if plan is not None and options.diff else "",
    ]
    return "\n\n".join(filter(None, parts))


def _frontiers(subject: Subject) -> tuple[list[Plan], list[Plan]]:
    """Return the frontiers with inverses and by replaying alone.

    The former also has the plans with inverses of at most the overhead of each plan of the latter.
    """
    say = functools.partial(print, file=sys.stderr, flush=True)
    started = time.perf_counter()
    say(f"finding the frontier of {subject.unit} by replaying alone ...")
    replaying = subject.frontier(invert=False)
    say("finding it with inverses ...")
    inverting = subject.frontier(invert=True)
    for number, other in enumerate(replaying, 1):
        say(f"finding the plan with inverses at the work of replaying plan {number} of {len(replaying)} ...")
        inverting.append(subject.plan(max_overhead=other.overhead))
    say(f"found {len(replaying) + len(inverting)} plans in {time.perf_counter() - started:.1f} s")
    return _undominated(inverting), replaying


def _undominated(plans: list[Plan]) -> list[Plan]:
    """Return, from least memory on, the plans of less overhead than every plan that saves less."""
    kept: list[Plan] = []
    for plan in sorted(plans, key=lambda plan: (plan.saved_bytes, plan.overhead)):
        if not kept or plan.overhead < kept[-1].overhead:
            kept.append(plan)
    return kept


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text, end="", flush=True)
        return
    try:
        Path(path).write_text(text, "utf-8")
    except OSError as error:
        raise SubjectError(f"{path} cannot be written: {error.strerror}") from error
    print(f"wrote {path} ({len(text.encode()):,} bytes)", file=sys.stderr)
