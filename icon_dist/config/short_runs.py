"""Values that a run is too short for: their moment never comes, and nothing else would tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from icon_dist.config.schema import Config
from icon_dist.config.validation import refusal
from icon_dist.errors import ConfigError, plural, raise_all

Unreached = tuple[str, str]  # a key, and what does not happen


def check_short_run(config: Config, own: Mapping[str, str], *, steps: int | None = None) -> list[str]:
    """What to note about the values that a preset brought; a ConfigError about those that the user set himself.

    ``own``: what he set -> where. Once before there are data, by epochs, and once when the plan knows the ``steps`` of
    the whole run.
    """
    found = [*(by_epochs(config) if steps is None else by_steps(config, steps))]
    raise_all(
        [ConfigError(f"{refusal(config, key, why)}; lower it or leave it out") for key, why in found if key in own]
    )
    return [refusal(config, key, why) for key, why in found]


def by_epochs(config: Config) -> Iterator[Unreached]:
    """Yield the keys whose moment never comes in ``optim.epochs`` epochs, each with what does not happen.

    Milestones, the start and ramp of contrast, evaluation, checkpoints and ``run.stop_after_epoch`` are looked at.
    """
    loss, end = config.loss, config.optim.epochs
    epochs = plural(end, "epoch")
    if late := [m for m in config.optim.milestones if m >= end]:
        some = "is" if len(late) == 1 else "are"
        yield "optim.milestones", f"{late} {some} never reached in {epochs}, so the learning rate is not lowered there"
    if contrasts(config) and loss.start_epoch >= end:
        yield "loss.start_epoch", f"contrast never starts in {epochs}"
    elif contrasts(config) and loss.start_epoch + loss.ramp_epochs > end:
        begun = f"from epoch {loss.start_epoch:g} on, " if loss.start_epoch else ""
        yield "loss.ramp_epochs", f"{begun}contrast does not grow to its full weight in {epochs}"
    if config.data.val and config.eval.every > end:
        yield "eval.every", f"the run is scored only at its end, after {epochs}"
    if config.run.checkpoint_every > end:
        yield "run.checkpoint_every", f"the run is saved only where it is scored and at its end, after {epochs}"
    if config.run.stop_after_epoch > end:
        yield "run.stop_after_epoch", f"the run is over after {epochs}"


def by_steps(config: Config, steps: int) -> Iterator[Unreached]:
    """Yield the keys whose moment never comes in a run of ``steps`` steps, each with what does not happen.

    The warmup of the learning rate, logging and the warmup of the memory bank are looked at.
    """
    loss, whole = config.loss, plural(steps, "step")
    if config.optim.warmup_steps > steps:
        yield "optim.warmup_steps", f"the learning rate does not rise to optim.lr in {whole}"
    if config.run.log_every > steps:
        yield "run.log_every", f"the loss is logged only at the last of {whole}"
    if contrasts(config) and loss.contrast == "inter" and loss.bank.slots and loss.start_epoch < config.optim.epochs:
        contrasted = round(steps * (1 - loss.start_epoch / config.optim.epochs))
        if loss.bank.warmup >= contrasted:
            begun = " that contrast has" if loss.start_epoch else ""
            yield "loss.bank.warmup", f"the bank is never used in the {plural(contrasted, 'step')}{begun}"


def contrasts(config: Config) -> bool:
    """Whether either term of contrast has a weight."""
    return config.loss.lambda_p > 0 and (config.loss.lambda_1 > 0 or config.loss.lambda_2 > 0)
