"""The policy: one TOML file, read into settings and checked, and what it says in sentences."""
