"""HTML pages about runs and evaluations, and their templates.

The page about a corpus is `img2img_data.inspect`'s, whose layout these pages extend.
"""
