"""Tests of imaging/pacs."""
