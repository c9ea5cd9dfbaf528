"""One program a module, run as ``python -m sermtl.bin.<verb>``."""
