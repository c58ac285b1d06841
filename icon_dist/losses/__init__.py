"""The training objective: heatmap error plus inter-image contrastive consistency (paper Eq. 1-5)."""
