"""Turn folders of photos into paired corpora."""
