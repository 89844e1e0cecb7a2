"""The coordinating centre's live page: read-only, from the files that the centre's processes write."""
