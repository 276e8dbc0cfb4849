"""Where images come from: folders and lists, their tags, filters, and which files belong together."""

__all__ = ["filters", "folder", "imdb_wiki", "matching", "tags"]
