"""Processes that train one model together, and errors about memory that is exhausted.

Nothing here knows networks, objectives or run folders.
"""
