"""The verbs of the ``edge-ser`` command: one module each, ``command`` in it.

They are imported when they are used, or listed; each is light itself and imports its room inside the function.
"""
