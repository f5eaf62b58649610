"""Servers that are measured, and the few lines of control that all of them share."""
