"""Search over config values: Optuna proposes, Ray Tune runs, one journal remembers. The command is in ``command``."""
