"""Sources of images: folders and lists, their tags, filters, and the matching of two folders."""

__all__ = ["filters", "folder", "imdb_wiki", "matching"]
