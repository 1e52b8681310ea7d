"""Models that a site adapts for itself: a release's synthetic images and real ones of its own.

Nothing of this room leaves the site: no differential privacy hides its patients in such a model.
"""
