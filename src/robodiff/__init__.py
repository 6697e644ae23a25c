"""robodiff: from recorded robot demonstrations to a measured diffusion policy."""

__version__ = "0.1.0"
