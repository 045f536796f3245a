"""Measures: each turns what happened into an Estimate, a number with its interval.

agreement         how much of the victim the copy is (Exam, Closeness)
transferability   whether what fools the copy fools the victim (Transfer)
detection         how soon a detector raises an alarm, and how often a false one
membership        how well members of a training set are told from others; roc has curve and risk, blind the baseline
utility           what a guard costs honest clients (honest_cost)
coherence         whether two members of an ensemble agree on a row
statistics        the intervals themselves
"""
