"""Helpers that several test files share, and the root of the checkout under test."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
