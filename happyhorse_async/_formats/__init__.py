"""Text and bytes of other people: images, videos, URLs, HTTP ranges, file names. Standard library
only.
"""
