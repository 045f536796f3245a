"""Evidence that outlives the tool: results in a signed bundle, checked and run again by a stranger."""
