"""What a run minimises: objectives, their losses and the history of generated images."""

__all__ = ["image_pool", "registry"]
