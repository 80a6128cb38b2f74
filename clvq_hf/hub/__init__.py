"""Talking to the Hub."""
