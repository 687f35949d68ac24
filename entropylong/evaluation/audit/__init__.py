"""Audit of any long-context data set: does its text need its length, is it repeated, does it hold evaluation sets?"""
