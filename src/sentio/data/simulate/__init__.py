"""A street simulator in numpy: labelled sounds of moving and standing sources, made from a seed.

Import from the modules: ``from sentio.data.simulate.rendering import render_street``.
"""
