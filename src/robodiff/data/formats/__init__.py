"""One file a format: each reads into, and writes from, ``robodiff.data.episodes.Episodes``."""
