"""Reading, converting and writing single images. The only room that calls decoders and encoders."""

__all__ = ["io"]
