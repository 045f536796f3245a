"""What the gate knows of every client: the journal of events, the fold that reads it, and where both are kept."""
