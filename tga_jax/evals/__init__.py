"""Judging answers, rates with intervals, reports."""
