"""The command line of img2img-train: commands and options.

Parses, calls the other rooms, prints. Settings of a run belong in ``img2img_train.config``.
"""
