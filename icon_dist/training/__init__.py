"""One training run: its plan, its beginning, the loop on every worker and all state that outlives a step."""
