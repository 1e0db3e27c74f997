"""Taskstream: long tasks over plain HTTP, kept in an event log."""
