"""The site: what runs inside a hospital."""
