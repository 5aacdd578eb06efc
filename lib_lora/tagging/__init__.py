"""Taggers: what pictures show, how sure they are of it, and which of that becomes a caption."""
