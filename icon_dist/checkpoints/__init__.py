"""Checkpoints of a run: folders of safetensors and JSON that count once their manifest is written."""
