"""Tests of keyd."""
