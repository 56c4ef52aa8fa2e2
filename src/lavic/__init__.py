"""lavic: products seen in five visual tokens, recommended in conversation (LaViC, KDD 2025)."""

__version__ = "0.1.0"
