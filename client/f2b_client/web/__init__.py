"""The hospital's live pages on 127.0.0.1: what the client does, what left, what it cost."""
