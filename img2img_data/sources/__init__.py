"""Sources of images: folders and lists, their tags, filters, and the matching of two folders."""
