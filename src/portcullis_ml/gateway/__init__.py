"""The gate: one process in front of a model server, holding the very guard that the audit attacks."""
