"""A stream's step as C: one file that needs nothing but the C library, and the library compiled from it."""

from sentio.exporting.c.step_in_c import compile_c, write_c

__all__ = ["compile_c", "write_c"]
