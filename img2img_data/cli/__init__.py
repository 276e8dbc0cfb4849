"""The command line of img2img-data: commands, steps, recipes and their JSON Schemas.

Parses, calls the other rooms, prints. Work on images belongs below, in ``builds`` and ``inspect``.
"""
