"""Train, score and apply image-to-image models on paired corpora."""
