"""What several tests share: where things are, stand-ins for public files, tiny models, a browser, a small disk."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
REFERENCE = TESTS / "reference"
