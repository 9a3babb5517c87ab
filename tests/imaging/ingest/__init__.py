"""Tests of imaging/ingest."""
