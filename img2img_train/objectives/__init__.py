"""Training objectives: which networks a run trains, in which order, and with which losses.

An objective is frozen settings without state; the loop that runs it belongs to ``training``.
"""
