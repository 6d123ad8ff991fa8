"""Training BERT, from the flags of a command line to a folder that transformers loads.

Four rooms do the work, and the files beside them tie it together. Imports point one way, from a storey to
those above it in this list:

    flags, command_line, recipe, progress, device     what the user asks for, and what everyone needs
    data/                                             from the name of a dataset to batches of token ids
    step/                                             one optimizer step, and the measure of a model
    setup, memory, resolve                            from flags to a run that can start
    loop/                                             steps, validations and checkpoints, until the end
    report/                                           what a run leaves in writing
    resume, dry_run, run                              a whole run; `bwsk_jax.train` starts here

Each thing has one name. `Flags` are what the user typed. A `Recipe` is the schedule that a preset and the
flags lead to. `resolve` finds out what flags mean; the result is a `StepSetup`, from which a training step is
compiled, and with text and parameters a `Setup`, which is a whole run. `BertConfig`, or `config`, is the
model's configuration and nothing else. In the files that a run leaves, the flags are called options and
settings.
"""
