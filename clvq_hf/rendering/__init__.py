"""Markdown, text tables and HTML pages, with everything from data escaped."""
