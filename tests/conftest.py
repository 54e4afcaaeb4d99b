"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# The first call of a compiled loop takes seconds; how long an example takes is no matter here.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
