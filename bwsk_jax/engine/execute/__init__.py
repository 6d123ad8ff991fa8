"""Running a plan: its steps, the guard, the alarm, and the two transformations that users call."""
