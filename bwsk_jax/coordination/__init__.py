"""Say where the devices of a sharded program have to meet, before any device is there.

A *meeting* is a point at which devices exchange messages and wait for each other: a collective. The public
function is `bwsk_jax.calm`. This package stands beside the engine, which never imports it.

**The question.** Hellerstein and Alvaro ask which programs need coordination at all. Their CALM principle,
consistency as logical monotonicity, answers: a problem has a consistent distributed implementation without
coordination if and only if it is monotone ("Keeping CALM: when distributed consistency is easy",
Communications of the ACM 63(9), 2020). Ameloot, Neven and Van den Bussche proved it for queries over sets of
facts ("Relational transducers for declarative networking", Journal of the ACM 60(2), 2013). A monotone
answer is one that can be given early, since nothing that others add takes any of it back.

**What is claimed here.** Programs over arrays are no queries over sets, so the theorem is not applied to
them. The same question is asked of each equation, for a given way of splitting its values over devices:

1. An equation is *free* along a mesh axis if each shard of its results depends only on that shard of its
   operands. An equation that is not free needs a message along this axis, whatever the compiler does.
   `CalmReport.prove` tests this on numbers.
2. `CalmReport.meetings` are those that Shardy writes, the partitioner of XLA, for the program in the form in
   which XLA shows it to Shardy. That compilers keep to them is not claimed but compared, by
   `CalmReport.check`, and each difference is named. Two things are as XLA does them and not as Shardy would:
   operands that do not fit (`operands`), and halos, which are what a convolution, slice or pad along a split
   dimension reads of the neighbours' parts (`halos`).
3. Whether an equation preserves information (S) or erases it (K) does not decide whether devices meet: a
   transpose of what is split preserves and may need a meeting, a maximum along what is whole erases and needs
   none. Each meeting carries the letter of its equation, so that the two can be compared. The PyTorch
   reference's ratio of S among kinds of modules is the same on every mesh, and predicts no meeting.

**Files.** Each imports only the engine, `classification`, `targets` and the files above it.

================== =========================================================================================
numbering.py       numbers equations so that they are known again after lowering and compilation
equations.py       what is known of a numbered equation: module, source, and whether it is S or K
steps.py           a partitioned program as plain data
meetings.py        a meeting, its reason, and the bytes that it sends
deferral.py        which sums could meet later
xla_import.py      a lowered module in the form in which XLA hands it to Shardy
shardings.py       how a value is split, between Shardy's attributes and tuples
operands.py        lays out operands that do not fit, as XLA does
halos.py           what devices send each other of the edges of their parts
windows.py         which operations read a stretch for each part, and which
shardy.py          partitions a lowered module in this process and reads its collectives
phases.py          which meetings wait for which: the critical path, and phases without meetings
compiled.py        the collectives of a compiled program, with their mesh axes
differences.py     compares predicted with compiled, and names the reason of each difference
layouts.py         how the operands and results of each equation are split
interference.py    tests whether a meeting is needed, by changing one shard
report.py          what comes out, as data, as text and as JSON
calm.py            traces, lowers, partitions and reports: the public function
================== =========================================================================================
"""
