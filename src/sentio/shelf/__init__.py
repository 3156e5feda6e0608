"""The models that ship with the package: one artifact per name, ``NAME.sentio``, and no code.

`sentio.core.shelf` finds them; ``make zoo`` makes them again from their recipes (``zoo/build.py``).
"""
