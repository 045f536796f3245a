"""The court: what is published of a key, when, what of it was shown, and what a stranger can check.

commitment   the file that is published, and the folder of its owner: secret, log, time token
log          append-only, each entry bound to all before it
signature    the owner's EC key: over the published file, and over a bundle
timestamp    a token of a time authority (RFC 3161) over the published file
bundle       openings for a subset that a challenge chooses, with everything that a stranger needs
innocents    models that owe the owner nothing, in a folder, and which of them learnt the owner's rows
verdict      the checks in order, then the questions to the suspect
"""
