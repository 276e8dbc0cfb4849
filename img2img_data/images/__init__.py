"""Images: reading, decoding, converting and writing single images, and what their headers say.

The only room that calls decoders and encoders. It does not know corpora, degradations or tensors.
"""
