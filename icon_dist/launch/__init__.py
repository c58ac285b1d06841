"""Where a run's workers live: on Ray or in this process, what they tell, and who shows it."""
