"""What to save and how to have the rest: the problem, its schedules, the search for a plan, and the plan."""
