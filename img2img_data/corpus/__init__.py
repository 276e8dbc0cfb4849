"""The corpus on disk: file names, keys and rows, the reader, and the folder layouts of other tools.

Writers live in ``builds`` and ``exchange``; checks and pages about a corpus live in ``inspect``.
"""
