"""Checkpoints of a run: folders of safetensors and JSON that count once their manifest is written.

Two writers of one run are kept apart by ``storage/lock.py``.
"""
