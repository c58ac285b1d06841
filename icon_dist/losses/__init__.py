"""The contrastive loss of ICON, and what it is made of; ``icon.py`` is read first, docs/loss.md says how to use it."""
