"""Where a run's workers live, on Ray or in this process, and how signals and the machine reach them."""
