"""Generators and discriminators, their specs without torch, and the registry that builds them.

What trains them (losses, optimizers, checkpoints) belongs to other rooms.
"""
