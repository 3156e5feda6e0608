"""Data in: files to a `Dataset` (`readers`), its parts (`splits`), a network's inputs (`features`).

Import from the modules: ``from sentio.data.readers import open_data``.
"""
