"""The demo page on the loopback interface: models, page, widgets, server and its request guard.

Training and inference do not belong here; the page calls them.
"""
