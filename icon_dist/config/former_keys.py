"""Keys that a config no longer has: checkpoints hold them, and files of users do."""

from __future__ import annotations

from typing import Any

CONSTANTS = {"run.max_skipped": 5, "data.augment.rotation_p": 0.6, "optim.gamma": 0.1, "semi.cutout": 5}
NO_BANK = "loss.bank.enabled"


def forget(values: dict[str, Any]) -> None:
    """Take such keys out of a saved config, in place, where they say what holds now; other values stay, to be refused.

    ``loss.bank.enabled: false`` becomes ``loss.bank.slots: 0``.
    """
    for key, constant in {**CONSTANTS, NO_BANK: True}.items():
        *sections, name = key.split(".")
        node: Any = values
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name not in node:
            continue
        if key == NO_BANK and node[name] is False:
            node[name], node["slots"] = True, 0
        if node[name] == constant:
            del node[name]


def instead(key: str) -> str:
    """What to do about a key that is gone; nothing for any other."""
    if key == NO_BANK:
        return "loss.bank.slots=0 is no bank"
    return f"it is always {CONSTANTS[key]} now, leave it out" if key in CONSTANTS else ""
