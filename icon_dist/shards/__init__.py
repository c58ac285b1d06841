"""The verbs on shard folders: ``icon-dist shards build|verify|view|synthesize``."""
