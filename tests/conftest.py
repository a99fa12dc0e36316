"""Lets every test import `builders`, and gives hypothesis time on slow machines."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")
