"""The version, in a module that imports nothing, so that lower layers need not look up at the package itself."""

__version__ = "0.1.0"
